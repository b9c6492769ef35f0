// Deals the panels of a product out to the threads, in runs that each thread claims when it is done with the last.

#include "linear.h"

namespace tiercel::TIERCEL_LEVEL {
namespace {

// What a thread claims at a time, about: long enough to stream, short enough for threads to finish together; and where many
// rows want the same weights again and again, what stays in a second-level cache beside them.
constexpr int64_t kRunBytes = 128 << 10, kRunBytesOfManyRows = 512 << 10;
constexpr int64_t kManyRows = 32;  // of quantised parts
constexpr int64_t kPanelsAtOnce = 4;  // kernels work on pairs or fours

// Panels of a run. Threads that are equally fast get equally many runs.
int64_t panels_per_run(const Linear &job, const tiercel_matrix &part, int64_t threads) {
    const bool many = job.rows > (part.format == TIERCEL_BF16 ? kFewRows : kManyRows);
    const int64_t run_bytes = threads * (many ? kRunBytesOfManyRows : kRunBytes);
    const int64_t groups = (panels(part.rows) + kPanelsAtOnce - 1) / kPanelsAtOnce;
    const int64_t bytes = groups * kPanelsAtOnce * panel_bytes(part.format, part.columns);
    const int64_t runs = threads * ((bytes + run_bytes - 1) / run_bytes);
    return kPanelsAtOnce * ((groups + runs - 1) / runs);
}

}  // namespace

void linear(const Linear &job, const Worker &worker) {
    int64_t first_run = 0, channel = 0, claimed = worker.claim();
    bool prepared = false;
    for (const tiercel_matrix *part = job.parts; part != job.parts + job.num_parts; part++) {
        if (part->rows == 0) continue;  // there is nothing to claim
        const int64_t count = panels(part->rows), per_run = panels_per_run(job, *part, worker.threads);
        const int64_t end = first_run + (count + per_run - 1) / per_run;
        for (; claimed < end; claimed = worker.claim()) {
            const int64_t first = (claimed - first_run) * per_run;
            const Panels run{*part, first, std::min(first + per_run, count), channel + first * kPanelRows};
            const bool bf16 = part->format == TIERCEL_BF16;
            if (bf16 && !prepared) prepare_bf16(job, worker);
            const auto multiply = bf16 ? linear_bf16 : part->format == TIERCEL_I8 ? linear_int8 : linear_quantised;
            multiply(job, run, worker);
            prepared = bf16;  // other products take the scratch memory for themselves
        }
        first_run = end;
        channel += part->rows;
    }
}

}  // namespace tiercel::TIERCEL_LEVEL
