"""The start of MPI: the library that mpi4py is linked to, whether it is the launcher's, and all ranks. mpi4py's third door."""

from __future__ import annotations

import os
import sys
import warnings
from functools import cache
from typing import Any

from hpcml.comm.alone import Alone
from hpcml.comm.communicator import Communicator
from hpcml.comm.launch import Promise, is_kin, promise
from hpcml.comm.mpi import MpiCommunicator
from hpcml.errors import CommError, LaunchError


@cache
def world() -> Communicator:
    """Return the communicator of all ranks; start MPI at the first call.

    Returns:
        COMM_WORLD of the MPI library, or a world of one where no library can be loaded and no launcher started us.

    Raises:
        LaunchError: if the launcher promised several ranks, but this process would believe to be alone.
    """
    promised = promise(os.environ)
    # Open MPI's UCX component complains on every rank about windows inside a node, which it does not serve; a site's setting stands.
    os.environ.setdefault("OMPI_MCA_osc", "^ucx")
    try:
        with warnings.catch_warnings():
            # mpi4py suspects on every rank what is told below once, with what to do
            warnings.filterwarnings("ignore", "suspicious MPI execution environment", RuntimeWarning)
            MPI = _load(promised)
    except LaunchError:
        raise
    except (ImportError, RuntimeError) as error:
        if promised is not None and promised[0] > 1:
            raise LaunchError(
                f"{promised[2]} started {promised[0]} ranks, but mpi4py cannot load an MPI library ({_first_line(error)});"
                " load the site's MPI module, or pip install 'hpcml[mpi]'"
            ) from error
        return Alone()
    if not MPI.Is_initialized():
        raise CommError("MPI is not initialised; do not set mpi4py.rc.initialize to False before hpcml starts")
    if promised is not None and promised[0] > 1 and MPI.COMM_WORLD.size == 1:
        raise _foreign(promised, MPI)
    return MpiCommunicator(MPI.COMM_WORLD)


def _load(promised: Promise | None) -> Any:
    """Return mpi4py.MPI, initialised; before that, refuse a library that the launcher does not know, for it may end the process itself."""
    import mpi4py

    if "mpi4py.MPI" not in sys.modules and mpi4py.rc.initialize is not False:
        mpi4py.rc.initialize, mpi4py.rc.finalize = False, True  # the start is ours, here below
    from mpi4py import MPI

    if MPI.Is_initialized() or mpi4py.rc.finalize is not True:
        return MPI
    if promised is not None and promised[0] > 1 and not is_kin(promised[2], MPI.Get_library_version()):
        raise _foreign(promised, MPI)
    MPI.Init_thread(MPI.THREAD_MULTIPLE)
    return MPI


def _foreign(promised: Promise, mpi: Any) -> LaunchError:
    return LaunchError(
        f"{promised[2]} started {promised[0]} ranks, but mpi4py is linked to {_first_line(mpi.Get_library_version())},"
        " which sees only this one: each process would believe that it is rank 0 of 1;"
        f" start with the mpirun of the same MPI (look beside {sys.executable}), or install mpi4py for the MPI of that launcher"
    )


def library_version() -> str:
    """Return the name and version of the MPI library that mpi4py is linked to, or "none" where none can be loaded."""
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError):
        return "none"
    return _first_line(MPI.Get_library_version())


def _first_line(text: object) -> str:
    lines = str(text).strip().splitlines()
    return " ".join(lines[0].split(",")[0].split()) if lines else "no reason given"
