# cython: language_level=3, boundscheck=False, wraparound=False, embedsignature=False
"""Bridge to the Rust crate. Arguments have been checked by the Python layer; see _kernels.pyi."""

from threading import Lock

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t


cdef extern from "acie_kernels.h" nogil:
    ctypedef struct acie_array:
        pass
    ctypedef struct acie_public:
        pass
    ctypedef struct acie_private:
        pass
    ctypedef struct acie_streebog:
        pass
    ctypedef struct acie_dag:
        pass
    ctypedef struct acie_tile_stats:
        uint64_t count
        double minimum, maximum, total, mean, variance, background, background_rms
        int64_t integer_minimum, integer_maximum
        uint64_t integer_total_low
        int64_t integer_total_high

    int acie_cpu_flags(char *, size_t)
    double acie_ifma_rate() nogil
    int acie_isa_available(const char *, size_t)
    int acie_isa_best(char *, size_t)
    int acie_public_new(const uint64_t *, size_t, const uint64_t *, size_t, size_t, const char *,
                        size_t, acie_public **, uint64_t *)
    void acie_public_free(acie_public *)
    int acie_public_base(const acie_public *, uint64_t *, uint64_t *)
    int acie_public_encrypt(const acie_public *, const uint64_t *, const uint64_t *, size_t,
                            uint64_t *, size_t, uint64_t *)
    int acie_public_encrypt_with_factors(const acie_public *, const uint64_t *,
                                         const uint64_t *, size_t, uint64_t *, size_t,
                                         uint64_t *)
    int acie_public_encrypt_with_r(const acie_public *, const uint64_t *, const uint64_t *,
                                   size_t, uint64_t *, size_t, uint64_t *)
    int acie_public_rerandomise(const acie_public *, const uint64_t *, size_t, uint64_t *,
                                size_t, uint64_t *)
    int acie_public_validate(const acie_public *, const uint64_t *, size_t, uint64_t *, size_t,
                             uint64_t *)
    int acie_array_load(const acie_public *, const uint64_t *, size_t, size_t, acie_array **,
                        uint64_t *)
    void acie_array_free(acie_array *)
    size_t acie_array_rows(const acie_array *)
    int acie_array_store(const acie_array *, uint64_t *, size_t, uint64_t *)
    int acie_array_add(const acie_array *, const acie_array *, size_t, acie_array **, uint64_t *)
    int acie_array_subtract(const acie_array *, const acie_array *, size_t, acie_array **,
                            uint64_t *)
    int acie_array_negate(const acie_array *, size_t, acie_array **, uint64_t *)
    int acie_array_add_plain(const acie_array *, const uint64_t *, size_t, acie_array **,
                             uint64_t *)
    int acie_array_scalar_mul(const acie_array *, const int64_t *, size_t, acie_array **,
                              uint64_t *)
    int acie_array_sum(const acie_array *, size_t, size_t, acie_array **, uint64_t *)
    int acie_array_matmul(const acie_array *, const int64_t *, size_t, size_t, size_t,
                          acie_array **, uint64_t *)
    int acie_array_take(const acie_array *, const int64_t *, size_t, size_t, acie_array **,
                        uint64_t *)
    int acie_array_concatenate(const acie_array *const *, size_t, size_t, acie_array **,
                               uint64_t *)
    int acie_private_new(const uint64_t *, size_t, const uint64_t *, size_t, const uint64_t *,
                         size_t, const uint64_t *, size_t, size_t, const char *, size_t,
                         acie_private **, uint64_t *)
    void acie_private_free(acie_private *)
    int acie_private_base(const acie_private *, uint64_t *, uint64_t *)
    int acie_private_decrypt(const acie_private *, const uint64_t *, size_t, uint64_t *, size_t,
                             uint64_t *)
    int acie_private_encrypt(const acie_private *, const uint64_t *, size_t, uint64_t *, size_t,
                             uint64_t *)
    acie_streebog *acie_streebog_new(size_t, const char *, size_t)
    acie_streebog *acie_streebog_copy(const acie_streebog *)
    void acie_streebog_free(acie_streebog *)
    int acie_streebog_update(acie_streebog *, const uint8_t *, size_t)
    int acie_streebog_digest(const acie_streebog *, uint8_t *)
    int acie_tile_statistics(int, const void *, const uint8_t *, size_t, double, uint32_t,
                             const char *, size_t, acie_tile_stats *)
    int acie_slots_pack(const int64_t *, size_t, size_t, size_t, size_t, size_t, const char *,
                        size_t, uint64_t *,
                        uint64_t *)
    int acie_slots_unpack(const uint64_t *, size_t, uint64_t, size_t, size_t, size_t, size_t,
                          const char *, size_t,
                          int64_t *, uint64_t *)
    int acie_dag_new(size_t, const int64_t *, size_t, int64_t *, acie_dag **, uint64_t *)
    void acie_dag_free(acie_dag *)
    int acie_dag_order(const acie_dag *, int64_t *)
    int acie_dag_reach(const acie_dag *, int, const int64_t *, size_t, uint8_t *, uint64_t *)
    int acie_dag_check(const acie_dag *, int, const int64_t *, const int64_t *, size_t,
                       uint64_t *, size_t, uint64_t *)
    int acie_dag_find(const acie_dag *, int, const int64_t *, size_t, const int64_t *, size_t,
                      const int64_t *, size_t, uint8_t *, int *, uint64_t *)
    int acie_minkowski(const double *, const double *, size_t, double, const char *, size_t,
                       double *)
    int acie_spacing_entropies(const float *, size_t, size_t, size_t, const double *, double *,
                               double *)


def cpu_flags() -> str:
    cdef char text[256]
    _raise_on(acie_cpu_flags(text, sizeof(text)), 0)
    return text.decode("ascii")


def ifma_rate() -> float:
    with nogil:
        rate = acie_ifma_rate()
    return rate


def isa_best() -> str:
    cdef char text[32]
    _raise_on(acie_isa_best(text, sizeof(text)), 0)
    return text.decode("ascii")


def isa_available(name: str) -> bool:
    cdef bytes encoded = name.encode()
    return acie_isa_available(encoded, len(encoded)) != 0


_MESSAGES = {
    2: (ValueError, "plaintext {} is not below n"),
    3: (ValueError, "ciphertext {} is not below n squared"),
    4: (ValueError, "given randomness {} is out of range"),
    5: (ValueError, "ciphertext {} shares a factor with n"),
    6: (OverflowError, "value {} does not fit"),
    7: (OSError, "the operating system gave no random bytes"),
    8: (ValueError, "the instruction set path cannot run on this processor"),
    9: (ValueError, "the modulus is even, below 512 bits, or not the product of the primes"),
    10: (IndexError, "index {} is out of range"),
    11: (ValueError, "the arrays are under different moduli or kept by different paths"),
    12: (ValueError, "edge {} names a node that does not exist"),
    13: (ValueError, "edge {} joins a node to itself"),
    14: (ValueError, "edge {} repeats an earlier one"),
    16: (ValueError, "there is no node {}"),
    17: (ValueError, "node {} is in two of the sets"),
}
_NO_SUCH_NODE = 16
_CYCLE = 15


cdef int _raise_on(int code, uint64_t detail) except -1:
    if code == 0:
        return 0
    kind, message = _MESSAGES.get(code, (RuntimeError, "internal error in acie_native"))
    raise kind(message.format(<int64_t>detail if code == _NO_SUCH_NODE else detail))


cdef class PublicKernel:
    cdef acie_public *key

    def __cinit__(self, const uint64_t[::1] n, const uint64_t[::1] base, size_t exponent_bits,
                  size_t window_bits, str isa):
        cdef bytes name = isa.encode()
        cdef const char *name_data = name
        cdef size_t name_size = len(name)
        cdef const uint64_t *base_data = NULL
        cdef uint64_t detail = 0
        cdef int code
        # A conditional expression would drop the const.
        if base is not None:
            base_data = &base[0]
        with nogil:
            code = acie_public_new(&n[0], n.shape[0], base_data, exponent_bits, window_bits,
                                   name_data, name_size, &self.key, &detail)
        _raise_on(code, detail)

    def __dealloc__(self):
        if self.key is not NULL:
            acie_public_free(self.key)

    def load(self, const uint64_t[::1] ciphertexts, size_t rows, size_t threads):
        cdef ArrayKernel out = ArrayKernel.__new__(ArrayKernel)
        cdef uint64_t detail = 0
        cdef int code
        with nogil:
            code = acie_array_load(self.key, &ciphertexts[0], rows, threads, &out.array, &detail)
        _raise_on(code, detail)
        return out

    def base(self, uint64_t[::1] out):
        cdef uint64_t detail = 0
        _raise_on(acie_public_base(self.key, &out[0], &detail), detail)

    def encrypt(self, const uint64_t[::1] plaintexts, const uint64_t[::1] exponents, size_t rows,
                uint64_t[::1] out, size_t threads):
        cdef const uint64_t *given = NULL
        cdef uint64_t detail = 0
        cdef int code
        if exponents is not None:
            given = &exponents[0]
        with nogil:
            code = acie_public_encrypt(self.key, &plaintexts[0], given, rows, &out[0], threads,
                                       &detail)
        _raise_on(code, detail)

    def encrypt_with_factors(self, const uint64_t[::1] plaintexts, const uint64_t[::1] factors,
                             size_t rows, uint64_t[::1] out, size_t threads):
        cdef uint64_t detail = 0
        cdef int code
        with nogil:
            code = acie_public_encrypt_with_factors(self.key, &plaintexts[0], &factors[0], rows,
                                                    &out[0], threads, &detail)
        _raise_on(code, detail)

    def encrypt_with_r(self, const uint64_t[::1] plaintexts, const uint64_t[::1] r, size_t rows,
                       uint64_t[::1] out, size_t threads):
        cdef uint64_t detail = 0
        cdef int code
        with nogil:
            code = acie_public_encrypt_with_r(self.key, &plaintexts[0], &r[0], rows, &out[0],
                                              threads, &detail)
        _raise_on(code, detail)

    def rerandomise(self, const uint64_t[::1] ciphertexts, size_t rows, uint64_t[::1] out,
                    size_t threads):
        cdef uint64_t detail = 0
        cdef int code
        with nogil:
            code = acie_public_rerandomise(self.key, &ciphertexts[0], rows, &out[0], threads,
                                           &detail)
        _raise_on(code, detail)

    def validate(self, const uint64_t[::1] ciphertexts, size_t rows, uint64_t[::1] out,
                 size_t threads):
        cdef uint64_t detail = 0
        cdef int code
        with nogil:
            code = acie_public_validate(self.key, &ciphertexts[0], rows, &out[0], threads,
                                        &detail)
        _raise_on(code, detail)


cdef class ArrayKernel:
    cdef acie_array *array

    def __init__(self):
        raise TypeError("arrays are made by PublicKernel.load")

    def __dealloc__(self):
        if self.array is not NULL:
            acie_array_free(self.array)

    def __len__(self):
        return acie_array_rows(self.array)

    def store(self, uint64_t[::1] out, size_t threads):
        cdef uint64_t detail = 0
        cdef int code
        with nogil:
            code = acie_array_store(self.array, &out[0], threads, &detail)
        _raise_on(code, detail)

    def add(self, ArrayKernel other not None, size_t threads):
        cdef ArrayKernel out = ArrayKernel.__new__(ArrayKernel)
        cdef uint64_t detail = 0
        cdef int code
        with nogil:
            code = acie_array_add(self.array, other.array, threads, &out.array, &detail)
        _raise_on(code, detail)
        return out

    def subtract(self, ArrayKernel other not None, size_t threads):
        cdef ArrayKernel out = ArrayKernel.__new__(ArrayKernel)
        cdef uint64_t detail = 0
        cdef int code
        with nogil:
            code = acie_array_subtract(self.array, other.array, threads, &out.array, &detail)
        _raise_on(code, detail)
        return out

    def negate(self, size_t threads):
        cdef ArrayKernel out = ArrayKernel.__new__(ArrayKernel)
        cdef uint64_t detail = 0
        cdef int code
        with nogil:
            code = acie_array_negate(self.array, threads, &out.array, &detail)
        _raise_on(code, detail)
        return out

    def add_plain(self, const uint64_t[::1] plaintexts, size_t threads):
        cdef ArrayKernel out = ArrayKernel.__new__(ArrayKernel)
        cdef uint64_t detail = 0
        cdef int code
        with nogil:
            code = acie_array_add_plain(self.array, &plaintexts[0], threads, &out.array, &detail)
        _raise_on(code, detail)
        return out

    def scalar_mul(self, const int64_t[::1] weights, size_t threads):
        cdef ArrayKernel out = ArrayKernel.__new__(ArrayKernel)
        cdef uint64_t detail = 0
        cdef int code
        with nogil:
            code = acie_array_scalar_mul(self.array, &weights[0], threads, &out.array, &detail)
        _raise_on(code, detail)
        return out

    def sum(self, size_t group, size_t threads):
        cdef ArrayKernel out = ArrayKernel.__new__(ArrayKernel)
        cdef uint64_t detail = 0
        cdef int code
        with nogil:
            code = acie_array_sum(self.array, group, threads, &out.array, &detail)
        _raise_on(code, detail)
        return out

    def matmul(self, const int64_t[::1] weights, size_t outputs, size_t bases, size_t threads):
        cdef ArrayKernel out = ArrayKernel.__new__(ArrayKernel)
        cdef uint64_t detail = 0
        cdef int code
        with nogil:
            code = acie_array_matmul(self.array, &weights[0], outputs, bases, threads, &out.array,
                                     &detail)
        _raise_on(code, detail)
        return out

    def take(self, const int64_t[::1] indices, size_t threads):
        cdef ArrayKernel out = ArrayKernel.__new__(ArrayKernel)
        cdef size_t count = indices.shape[0]
        cdef uint64_t detail = 0
        cdef int code
        with nogil:
            code = acie_array_take(self.array, &indices[0], count, threads, &out.array, &detail)
        _raise_on(code, detail)
        return out


def concatenate(list arrays, size_t threads):
    cdef ArrayKernel out = ArrayKernel.__new__(ArrayKernel)
    cdef size_t count = len(arrays)
    cdef const acie_array **parts = <const acie_array **>PyMem_Malloc(count * sizeof(void *))
    cdef ArrayKernel part
    cdef uint64_t detail = 0
    cdef int code
    if parts is NULL:
        raise MemoryError
    try:
        for index, part in enumerate(arrays):
            parts[index] = part.array
        with nogil:
            code = acie_array_concatenate(parts, count, threads, &out.array, &detail)
    finally:
        PyMem_Free(parts)
    _raise_on(code, detail)
    return out


cdef class PrivateKernel:
    cdef acie_private *key

    def __cinit__(self, const uint64_t[::1] n, const uint64_t[::1] p, const uint64_t[::1] q,
                  const uint64_t[::1] base, size_t exponent_bits, size_t window_bits, str isa):
        cdef bytes name = isa.encode()
        cdef const char *name_data = name
        cdef size_t name_size = len(name)
        cdef const uint64_t *base_data = NULL
        cdef uint64_t detail = 0
        cdef int code
        if base is not None:
            base_data = &base[0]
        with nogil:
            code = acie_private_new(&n[0], n.shape[0], &p[0], p.shape[0], &q[0], q.shape[0],
                                    base_data, exponent_bits, window_bits, name_data, name_size,
                                    &self.key, &detail)
        _raise_on(code, detail)

    def __dealloc__(self):
        if self.key is not NULL:
            acie_private_free(self.key)

    def base(self, uint64_t[::1] out):
        cdef uint64_t detail = 0
        _raise_on(acie_private_base(self.key, &out[0], &detail), detail)

    def decrypt(self, const uint64_t[::1] ciphertexts, size_t rows, uint64_t[::1] out,
                size_t threads):
        cdef uint64_t detail = 0
        cdef int code
        with nogil:
            code = acie_private_decrypt(self.key, &ciphertexts[0], rows, &out[0], threads,
                                        &detail)
        _raise_on(code, detail)

    def encrypt(self, const uint64_t[::1] plaintexts, size_t rows, uint64_t[::1] out,
                size_t threads):
        cdef uint64_t detail = 0
        cdef int code
        with nogil:
            code = acie_private_encrypt(self.key, &plaintexts[0], rows, &out[0], threads,
                                        &detail)
        _raise_on(code, detail)


# Below this size, giving up the interpreter lock costs more than the hash.
cdef enum:
    LARGE_BUFFER_BYTES = 4096


cdef class StreebogKernel:
    cdef acie_streebog *hash
    cdef size_t digest_bytes
    cdef object lock

    def __cinit__(self, size_t digest_bytes, str isa, StreebogKernel source=None):
        cdef bytes name = isa.encode()
        self.lock = Lock()
        self.digest_bytes = digest_bytes
        if source is None:
            self.hash = acie_streebog_new(digest_bytes, name, len(name))
            if self.hash is NULL:
                raise ValueError(f"instruction set path {isa!r} is not available here")
        else:
            with source.lock:
                self.hash = acie_streebog_copy(source.hash)

    def __dealloc__(self):
        if self.hash is not NULL:
            acie_streebog_free(self.hash)

    def update(self, data):
        cdef Py_buffer view
        cdef int code
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            with self.lock:
                if view.len < LARGE_BUFFER_BYTES:
                    code = acie_streebog_update(self.hash, <const uint8_t *>view.buf, view.len)
                else:
                    with nogil:
                        code = acie_streebog_update(self.hash, <const uint8_t *>view.buf,
                                                    view.len)
        finally:
            PyBuffer_Release(&view)
        _raise_on(code, 0)

    def digest(self) -> bytes:
        cdef uint8_t out[64]
        with self.lock:
            _raise_on(acie_streebog_digest(self.hash, out), 0)
        return (<char *>out)[:self.digest_bytes]


_KINDS = {"f4": 0, "f8": 1, "u1": 2, "i2": 3, "u2": 4, "i4": 5, "u4": 6, "i8": 7}


def tile_statistics(str kind, const uint8_t[::1] pixels, const uint8_t[::1] valid, size_t count,
                    double clip_sigma, uint32_t clip_rounds, str isa):
    cdef bytes name = isa.encode()
    cdef const char *name_data = name
    cdef size_t name_size = len(name)
    cdef int index = _KINDS[kind]
    cdef const uint8_t *mask = NULL
    cdef acie_tile_stats s
    cdef int code
    if valid is not None:
        mask = &valid[0]
    with nogil:
        code = acie_tile_statistics(index, &pixels[0], mask, count, clip_sigma, clip_rounds,
                                    name_data, name_size, &s)
    _raise_on(code, 0)
    background = (s.background, s.background_rms)
    if kind[0] == "f":
        return s.count, s.minimum, s.maximum, s.total, s.mean, s.variance, *background
    total = (int(s.integer_total_high) << 64) + int(s.integer_total_low)
    low, high = s.integer_minimum, s.integer_maximum
    if s.count == 0:
        low, high = s.minimum, s.maximum
    return s.count, low, high, total, s.mean, s.variance, *background


def pack_slots(const int64_t[::1] values, size_t slot_bits, size_t value_bits, size_t slots,
               size_t limbs, str isa, uint64_t[::1] out):
    cdef bytes name = isa.encode()
    cdef const char *name_data = name
    cdef size_t name_size = len(name)
    cdef uint64_t detail = 0
    cdef int code
    with nogil:
        code = acie_slots_pack(&values[0], values.shape[0], slot_bits, value_bits, slots, limbs,
                               name_data, name_size, &out[0], &detail)
    _raise_on(code, detail)


def unpack_slots(const uint64_t[::1] plaintexts, uint64_t bias_multiple, size_t slot_bits,
                 size_t value_bits, size_t slots, size_t limbs, str isa, int64_t[::1] out):
    cdef bytes name = isa.encode()
    cdef const char *name_data = name
    cdef size_t name_size = len(name)
    cdef uint64_t detail = 0
    cdef int code
    with nogil:
        code = acie_slots_unpack(&plaintexts[0], out.shape[0], bias_multiple, slot_bits,
                                 value_bits, slots, limbs, name_data, name_size, &out[0],
                                 &detail)
    _raise_on(code, detail)


class CycleError(ValueError):
    """The edges form a cycle; `nodes` holds one, each node followed by one of its effects."""

    def __init__(self, nodes):
        super().__init__("the edges form a cycle: " + " → ".join(map(str, [*nodes, nodes[0]])))
        self.nodes = nodes


cdef class DagKernel:
    cdef acie_dag *dag

    def __cinit__(self, size_t nodes, const int64_t[:, ::1] edges, int64_t[::1] cycle):
        cdef uint64_t detail = 0
        cdef int code
        with nogil:
            code = acie_dag_new(nodes, &edges[0, 0], edges.shape[0], &cycle[0], &self.dag,
                                &detail)
        if code == _CYCLE:
            raise CycleError(tuple(cycle[k] for k in range(detail)))
        _raise_on(code, detail)

    def __dealloc__(self):
        if self.dag is not NULL:
            acie_dag_free(self.dag)

    def order(self, int64_t[::1] out):
        cdef int code
        with nogil:
            code = acie_dag_order(self.dag, &out[0])
        _raise_on(code, 0)

    def reach(self, bint down, const int64_t[::1] start, uint8_t[::1] out):
        cdef uint64_t detail = 0
        cdef int code
        with nogil:
            code = acie_dag_reach(self.dag, down, &start[0], start.shape[0], &out[0], &detail)
        _raise_on(code, detail)

    def check(self, int criterion, const int64_t[::1] nodes, const int64_t[::1] ends,
              uint64_t[::1] out, size_t threads):
        cdef uint64_t detail = 0
        cdef int code
        with nogil:
            code = acie_dag_check(self.dag, criterion, &nodes[0], &ends[0], out.shape[0], &out[0],
                                  threads, &detail)
        _raise_on(code, detail)

    def find(self, int criterion, const int64_t[::1] x, const int64_t[::1] y,
             const int64_t[::1] excluded, uint8_t[::1] out) -> bool:
        cdef uint64_t detail = 0
        cdef int code, found = 0
        with nogil:
            code = acie_dag_find(self.dag, criterion, &x[0], x.shape[0], &y[0], y.shape[0],
                                 &excluded[0], excluded.shape[0], &out[0], &found, &detail)
        _raise_on(code, detail)
        return found != 0


def minkowski_interval(const double[:, ::1] start, const double[:, ::1] end, double speed,
                       str isa, double[::1] out):
    cdef bytes name = isa.encode()
    cdef const char *name_data = name
    cdef size_t name_size = len(name)
    cdef int code
    with nogil:
        code = acie_minkowski(&start[0, 0], &end[0, 0], out.shape[0], speed, name_data, name_size,
                              &out[0])
    _raise_on(code, 0)


def spacing_entropies(const float[:, ::1] values, size_t window, const double[::1] digamma,
                      double[::1] entropies, double[::1] surprisal):
    cdef int code
    with nogil:
        code = acie_spacing_entropies(&values[0, 0], values.shape[0], values.shape[1], window,
                                      &digamma[0], &entropies[0], &surprisal[0])
    _raise_on(code, 0)
