#include "kernels.h"
#include "linear.h"
namespace tiercel::TIERCEL_LEVEL {
void linear(const Linear &, const Worker &) {}
}
