#include "kernels.h"
#include "linear.h"
namespace tiercel::TIERCEL_LEVEL {
void kv_write(const KVWrite &, const Worker &) {}
}
