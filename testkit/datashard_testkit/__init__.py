"""What the tests and benchmarks of DataShard share; it is not part of the wheel.

The simulation runs the commit layer in virtual time on a model of an object store, with faults and crashes, and checks
every version afterwards: ``python -m datashard_testkit.simulate --seeds 1000``. Begin with
:mod:`~datashard_testkit.scenario`.

- ``scenario``, ``workloads``, ``actors``, ``staged_actors``, ``appends``, ``foreign``, ``other_committers``: who does
  what.
- ``simulation``, ``model_store``: the scheduler of virtual time, and the store.
- ``checker``, ``history``, ``report``: whether callers were answered correctly, and whether the versions are
  consistent.
- ``mutants`` and ``mutants_of_*``: the safety rules, each with a switch that breaks it; the simulation has to notice
  it.
- ``simulate``: the command line.

For tests of the other layers:

- ``contract``: the storage contract, as checks that run over any backend.
- ``s3_server``, ``store_http``, ``store_modes``, ``scripted_server``, ``fault_proxy``: S3 servers, and stores and
  networks that behave badly.
- ``tables``, ``conditions``: tables of every history, and conditions with the rows that they select.
- ``answered``: a coroutine of the commit layer, run request by request.
- ``sampling``: how much is tried; ``DATASHARD_THOROUGH=1`` tries everything.

``tests/`` and ``benchmarks/`` import this package. It imports any module of :mod:`datashard_core`, which never imports
it: import-linter checks that.
"""
