// The table of one instruction set. Compiled once per level, like every file it names.

#include "kernels.h"

namespace tiercel {
namespace TIERCEL_LEVEL {

void linear(const Linear &, const Worker &);
void rms_norm(const RmsNorm &, const Worker &);
void silu_mul(const SiluMul &, const Worker &);
void add(const Add &, const Worker &);
void convert(const Convert &, const Worker &);
void embedding(const Embedding &, const Worker &);
void rope(const Rope &, const Worker &);
void kv_write(const KVWrite &, const Worker &);
void attention(const Attention &, const Worker &);
double matrix_rate(int32_t kind);

constexpr Kernels table = {linear, rms_norm, silu_mul, add, convert, embedding, rope, kv_write, attention, matrix_rate};

}  // namespace TIERCEL_LEVEL

#define TIERCEL_JOIN_(a, b) a##b
#define TIERCEL_JOIN(a, b) TIERCEL_JOIN_(a, b)
const Kernels TIERCEL_JOIN(kernels_, TIERCEL_LEVEL) = TIERCEL_LEVEL::table;

}  // namespace tiercel
