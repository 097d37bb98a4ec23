"""Make a Dask cluster on this machine with settings that cannot hang, or connect to another's.

Each setting has its reason beside it; "fact" numbers are those of the project's measurements on
distributed 2026.8 (see docs/scaling.md).
"""

from __future__ import annotations

import ipaddress
import logging
import os
import signal
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing import resource_tracker
from typing import Any

from geopanoptic.errors import ConfigError, EngineError
from geopanoptic.workers.malloc import heap_environment, malloc_environment
from geopanoptic.workers.spec import EngineSpec, Tls, chosen_gpus

log = logging.getLogger("geopanoptic.workers")

LOOPBACK = "127.0.0.1"
CONNECT_S = 30
FIRST_WORKER_S = 300
TRUST_VARIABLE = "GEOPANOPTIC_INSECURE_CLUSTER"

DASK_SETTINGS: Mapping[str, Any] = {
    # Four deaths of a worker per bad task otherwise, and innocents blamed with it (fact 4).
    "distributed.scheduler.allowed-failures": 1,
    # The default closes a worker's slot for good when its restart takes more than 15 s; with
    # all slots gone the run hangs for ever (fact 5).
    "distributed.deploy.lost-worker-timeout": "1h",
    "distributed.scheduler.no-workers-timeout": "300s",
    # There is nothing managed to spill, and a worker paused over memory that Dask does not
    # manage (torch, GDAL) never wakes up (fact 6).
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.95,
    # Background ticking costs 40 ms of CPU per second and process by default (fact 12).
    "distributed.worker.profile.enabled": False,
    "distributed.worker.memory.monitor-interval": "1s",
    "distributed.admin.tick.interval": "500ms",
    "distributed.admin.system-monitor.interval": "5s",
    "distributed.scheduler.active-memory-manager.start": False,
    "distributed.diagnostics.nvml": False,
    # An HTTP server runs in each process whether asked for or not; it need not answer anything.
    "distributed.worker.http.routes": [],
    # Less than about 11 s trips an assertion in distributed.
    "distributed.comm.timeouts.tcp": "30s",
}


def pre_spawn_environment(threads: int) -> dict[str, str]:
    """Return what must be in a worker's environment before its process begins.

    `threads` is the process's share of the cores; Dask's default of 1 would silently give
    single-threaded torch. For the rest see `geopanoptic.workers.malloc`.
    """
    return {**malloc_environment(), **thread_environment(threads)}


def thread_environment(threads: int) -> dict[str, str]:
    """Return the variables that set the number of compute threads of a process."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
    return dict.fromkeys(names, str(threads))


@contextmanager
def local_client(spec: EngineSpec, environment: Mapping[str, str]) -> Iterator[tuple[Any, int]]:
    """Start worker processes on this machine; yield a client and their number.

    One process per GPU where `spec.device` has GPUs, else `spec.workers`. All sockets are on the
    loopback interface. `environment` is set in each worker. Raises EngineError when the cluster
    does not start.
    """
    import dask
    from distributed import Nanny, Scheduler, SpecCluster

    gpus = chosen_gpus(spec.device)
    count = spec.workers or max(1, len(gpus))
    threads = spec.cores_per_process(count)
    settings = {
        **DASK_SETTINGS,
        "distributed.nanny.pre-spawn-environ": pre_spawn_environment(threads),
    }
    if not spec.dashboard:
        settings["distributed.scheduler.http.routes"] = []
    options: dict[str, Any] = {
        "host": LOOPBACK,
        "nthreads": spec.threads_per_process(gpu=bool(gpus)),
        "memory_limit": spec.ram_per_process(count),
        "dashboard": False,
        "silence_logs": logging.ERROR,
    }
    workers = {}
    for i in range(count):
        own = {"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} if gpus else {}
        own |= heap_environment(spec.max_ram and spec.ram_per_process(count))
        workers[i] = {"cls": Nanny, "options": {**options, "env": {**environment, **own}}}
    scheduler = {
        "cls": Scheduler,
        "options": {
            "host": LOOPBACK,
            "port": 0,
            "dashboard": spec.dashboard,
            # Without an address its HTTP server takes port 8787, also with the dashboard off.
            "dashboard_address": f"{LOOPBACK}:0",
        },
    }
    with ExitStack() as stack:
        stack.enter_context(_environment_restored())
        stack.enter_context(dask.config.set(settings))
        try:
            with _interrupts_blocked(), _environment_restored():
                # A Nanny lets our own environment override the configuration; an
                # OMP_NUM_THREADS meant for this process must not decide for its workers.
                os.environ.update(thread_environment(threads))
                cluster: Any = SpecCluster(
                    scheduler=scheduler, workers=workers, silence_logs=logging.CRITICAL
                )  # type: ignore[no-untyped-call]
                stack.callback(_quietly, cluster.close)
            client = _client(cluster)
        except (RuntimeError, OSError, TimeoutError) as error:
            raise EngineError(f"the local workers did not start: {error}") from error
        stack.callback(_quietly, client.close)
        if spec.dashboard:
            log.warning("the dashboard is at %s", client.dashboard_link)
        yield client, count


@contextmanager
def remote_client(spec: EngineSpec, environment: Mapping[str, str]) -> Iterator[tuple[Any, int]]:
    """Connect to the cluster at `spec.scheduler`; yield a client and 0 (its size may change).

    Without `spec.tls`, a tls:// address takes the certificates of Dask's own configuration.
    Raises ConfigError for an unencrypted scheduler on another host (who connects to it runs any
    code) unless `spec.insecure`; EngineError when nobody answers or no worker comes.
    """
    from distributed import Security
    from distributed.utils import silence_logging_cmgr

    address = str(spec.scheduler)
    refuse_open_scheduler(address, spec)
    security: Any = Security(**_security(spec.tls)) if spec.tls else None  # type: ignore[no-untyped-call]
    try:
        client = _client(address, security=security, timeout=CONNECT_S)
    except (OSError, TimeoutError, ValueError) as error:
        raise EngineError(f"no Dask scheduler answers at {address}: {error}") from error
    except TypeError as error:  # so Dask says that it has no certificates
        raise ConfigError(
            f"{address} needs certificates: name their files (--tls-ca, --tls-cert, --tls-key) "
            "or in Dask's configuration (DASK_DISTRIBUTED__COMM__TLS__CA_FILE, "
            f"DASK_DISTRIBUTED__COMM__TLS__CLIENT__CERT and __KEY; {error})"
        ) from error
    with silence_logging_cmgr(level=logging.CRITICAL):  # what matters of it, our errors say
        try:
            client.register_plugin(worker_plugin(dict(environment)), name="geopanoptic")
            client.wait_for_workers(1, timeout=FIRST_WORKER_S)
            yield client, 0
        except TimeoutError as error:
            raise EngineError(f"no worker came to {address} within {FIRST_WORKER_S} s") from error
        finally:
            _quietly(client.close)


def _client(where: Any, **options: Any) -> Any:
    """Make a Dask client of a cluster or an address; one that fails leaves nothing behind.

    Dask's own leaves its thread and, where the failure was not that of a network, an object that
    closes itself when it is collected. That needs a lock of Dask's; when the collector happens to
    come by while the next client is starting, the lock is held by the very thread that waits.
    """
    from distributed import Client

    client: Any = Client.__new__(Client)
    try:
        client.__init__(where, set_as_default=False, **options)
    except BaseException:
        with suppress(Exception):
            client.status = "closed"  # there is nobody to say goodbye to
            client._loop_runner.stop()
        raise
    return client


def worker_plugin(environment: dict[str, str]) -> Any:
    """Make the plugin that prepares workers of a cluster that we did not start."""
    from geopanoptic.workers.plugin import WorkerSettings

    return WorkerSettings(environment)


def refuse_open_scheduler(address: str, spec: EngineSpec) -> None:
    """Raise ConfigError when `address` is reached unencrypted over a network."""
    scheme, _, rest = address.rpartition("://")
    trusted = spec.insecure or os.environ.get(TRUST_VARIABLE, "0") != "0"
    if trusted or scheme in ("tls", "wss"):
        return
    host = rest.rsplit(":", 1)[0].strip("[]")
    if not _is_loopback(host):
        raise ConfigError(
            f"the scheduler {address} is on another host and not encrypted: whoever reaches it "
            "can run any code; use tls:// (docs/scaling.md says how) or, in a network that you "
            f"trust wholly, --insecure ({TRUST_VARIABLE}=1)"
        )


def _is_loopback(host: str) -> bool:
    try:
        addresses = {info[4][0] for info in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    return bool(addresses) and all(ipaddress.ip_address(a).is_loopback for a in addresses)


def _security(tls: Tls) -> dict[str, Any]:
    return {
        "tls_ca_file": str(tls.ca_file),
        "tls_client_cert": str(tls.cert),
        "tls_client_key": str(tls.key),
        "require_encryption": True,
    }


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Block SIGINT in this thread, hence in all threads and processes started meanwhile.

    A terminal sends Ctrl-C to every process of the group. Workers that die of it are restarted
    by Dask, for ever (fact 7). Blocked from their first instruction on, they leave it to us; also
    those that a Nanny starts later, because its thread has inherited the mask.
    """
    # Starting the resource tracker unblocks SIGINT in the thread that does it: have it started.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _environment_restored() -> Iterator[None]:
    """Undo what a Nanny writes into the environment of its own process, which is ours."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)


def _quietly(close: Any) -> None:
    # A cluster that is already broken may fail to close; its workers end with our process.
    with suppress(Exception):
        close()
