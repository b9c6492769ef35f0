#include "kernels.h"
#include "linear.h"
namespace tiercel::TIERCEL_LEVEL {
void attention(const Attention &, const Worker &) {}
}
