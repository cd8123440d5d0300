/* C interface of the Rust crate. Every function returns 0, or an error code with a detail
 * (the row or index at fault): 1 panic, 2 plaintext range, 3 ciphertext range, 4 range of
 * given randomness, 5 not invertible, 6 overflow, 7 no entropy, 8 path not available,
 * 9 bad modulus, 10 index out of range, 11 arrays under different moduli or paths,
 * 12 edge out of range, 13 edge to itself, 14 repeated edge, 15 cycle (its length), 16 node out of
 * range, 17 node in two sets. */
#ifndef ACIE_KERNELS_H
#define ACIE_KERNELS_H

#include <stddef.h>
#include <stdint.h>

typedef struct acie_array acie_array;
typedef struct acie_public acie_public;
typedef struct acie_private acie_private;
typedef struct acie_streebog acie_streebog;
typedef struct acie_dag acie_dag;

typedef struct {
    uint64_t count;
    double minimum, maximum, total, mean, variance, background, background_rms;
    int64_t integer_minimum, integer_maximum;
    uint64_t integer_total_low;
    int64_t integer_total_high;
} acie_tile_stats;

/* Writes a NUL-terminated, space-separated list; returns 0 if it fits. */
int acie_cpu_flags(char *out, size_t size);
/* Eight-lane IFMA multiply-adds per second on one core; 0 where the processor has none. */
double acie_ifma_rate(void);
int acie_isa_available(const char *name, size_t length);
int acie_isa_best(char *out, size_t size);

int acie_public_new(const uint64_t *n, size_t n_limbs, const uint64_t *base, size_t exponent_bits,
                    size_t window_bits, const char *isa, size_t isa_length, acie_public **out,
                    uint64_t *detail);
void acie_public_free(acie_public *key);
int acie_public_base(const acie_public *key, uint64_t *out, uint64_t *detail);
int acie_public_encrypt(const acie_public *key, const uint64_t *plaintexts,
                        const uint64_t *exponents, size_t rows, uint64_t *out, size_t threads,
                        uint64_t *detail);
int acie_public_encrypt_with_factors(const acie_public *key, const uint64_t *plaintexts,
                                     const uint64_t *factors, size_t rows, uint64_t *out,
                                     size_t threads, uint64_t *detail);
int acie_public_encrypt_with_r(const acie_public *key, const uint64_t *plaintexts,
                               const uint64_t *r, size_t rows, uint64_t *out, size_t threads,
                               uint64_t *detail);
int acie_public_rerandomise(const acie_public *key, const uint64_t *ciphertexts, size_t rows,
                            uint64_t *out, size_t threads, uint64_t *detail);
int acie_public_validate(const acie_public *key, const uint64_t *ciphertexts, size_t rows,
                         uint64_t *out, size_t threads, uint64_t *detail);

/* Functions that make an array store it in *out; the caller frees it. */
int acie_array_load(const acie_public *key, const uint64_t *ciphertexts, size_t rows,
                    size_t threads, acie_array **out, uint64_t *detail);
void acie_array_free(acie_array *array);
size_t acie_array_rows(const acie_array *array);
int acie_array_store(const acie_array *array, uint64_t *ciphertexts, size_t threads,
                     uint64_t *detail);
int acie_array_add(const acie_array *a, const acie_array *b, size_t threads, acie_array **out,
                   uint64_t *detail);
int acie_array_subtract(const acie_array *a, const acie_array *b, size_t threads,
                        acie_array **out, uint64_t *detail);
int acie_array_negate(const acie_array *array, size_t threads, acie_array **out,
                      uint64_t *detail);
int acie_array_add_plain(const acie_array *array, const uint64_t *plaintexts, size_t threads,
                         acie_array **out, uint64_t *detail);
int acie_array_scalar_mul(const acie_array *array, const int64_t *weights, size_t threads,
                          acie_array **out, uint64_t *detail);
int acie_array_sum(const acie_array *array, size_t group, size_t threads, acie_array **out,
                   uint64_t *detail);
int acie_array_matmul(const acie_array *array, const int64_t *weights, size_t outputs,
                      size_t bases, size_t threads, acie_array **out, uint64_t *detail);
int acie_array_take(const acie_array *array, const int64_t *indices, size_t count,
                    size_t threads, acie_array **out, uint64_t *detail);
int acie_array_concatenate(const acie_array *const *arrays, size_t count, size_t threads,
                           acie_array **out, uint64_t *detail);

int acie_private_new(const uint64_t *n, size_t n_limbs, const uint64_t *p, size_t p_limbs,
                     const uint64_t *q, size_t q_limbs, const uint64_t *base,
                     size_t exponent_bits, size_t window_bits, const char *isa,
                     size_t isa_length, acie_private **out, uint64_t *detail);
void acie_private_free(acie_private *key);
int acie_private_base(const acie_private *key, uint64_t *out, uint64_t *detail);
int acie_private_decrypt(const acie_private *key, const uint64_t *ciphertexts, size_t rows,
                         uint64_t *out, size_t threads, uint64_t *detail);
int acie_private_encrypt(const acie_private *key, const uint64_t *plaintexts, size_t rows,
                         uint64_t *out, size_t threads, uint64_t *detail);

/* NULL if the path is not available. */
acie_streebog *acie_streebog_new(size_t digest_bytes, const char *isa, size_t isa_length);
acie_streebog *acie_streebog_copy(const acie_streebog *hash);
void acie_streebog_free(acie_streebog *hash);
int acie_streebog_update(acie_streebog *hash, const uint8_t *data, size_t size);
int acie_streebog_digest(const acie_streebog *hash, uint8_t *out);

/* kind: index in f4 f8 u1 i2 u2 i4 u4 i8; valid may be NULL. */
int acie_tile_statistics(int kind, const void *pixels, const uint8_t *valid, size_t count,
                         double clip_sigma, uint32_t clip_rounds, const char *isa,
                         size_t isa_length, acie_tile_stats *out);

int acie_slots_pack(const int64_t *values, size_t count, size_t slot_bits, size_t value_bits,
                    size_t slots, size_t limbs, const char *isa, size_t isa_length, uint64_t *out,
                    uint64_t *detail);
int acie_slots_unpack(const uint64_t *plaintexts, size_t count, uint64_t bias_multiple,
                      size_t slot_bits, size_t value_bits, size_t slots, size_t limbs,
                      const char *isa, size_t isa_length,
                      int64_t *out, uint64_t *detail);

/* edges: [count][2], cause before effect; cycle: room for `nodes` numbers. */
int acie_dag_new(size_t nodes, const int64_t *edges, size_t count, int64_t *cycle, acie_dag **out,
                 uint64_t *detail);
void acie_dag_free(acie_dag *dag);
int acie_dag_order(const acie_dag *dag, int64_t *out);
/* Marks the given nodes too. */
int acie_dag_reach(const acie_dag *dag, int down, const int64_t *from, size_t count, uint8_t *out,
                   uint64_t *detail);
/* criterion: 0 d-separation, 1 back-door, 2 front-door; each query has three sets, whose ends in
 * `nodes` follow each other in `ends`. */
int acie_dag_check(const acie_dag *dag, int criterion, const int64_t *nodes, const int64_t *ends,
                   size_t queries, uint64_t *out, size_t threads, uint64_t *detail);
int acie_dag_find(const acie_dag *dag, int criterion, const int64_t *x, size_t x_count,
                  const int64_t *y, size_t y_count, const int64_t *excluded,
                  size_t excluded_count, uint8_t *out, int *found, uint64_t *detail);

/* from, to: [count][4], time first. */
int acie_minkowski(const double *from, const double *to, size_t count, double speed,
                   const char *isa, size_t isa_length, double *out);

/* values: [rows][count]; digamma: at 0 (unused) to 2 window; surprisal: summed over rows. */
int acie_spacing_entropies(const float *values, size_t rows, size_t count, size_t window,
                           const double *digamma, double *entropies, double *surprisal);

#endif
