// Deals the panels of a product out to the threads, in runs that each thread claims when it is done with the last.

#include "linear.h"

namespace tiercel::TIERCEL_LEVEL {
namespace {

// What a thread claims at a time, about: long enough to stream, short enough for threads to finish together.
constexpr int64_t kRunBytes = 128 << 10;

// Panels of a run. Threads that are equally fast get equally many runs.
int64_t panels_per_run(const tiercel_matrix &part, int64_t threads) {
    const int64_t count = panels(part.rows), bytes = count * panel_bytes(part.format, part.columns);
    const int64_t runs = threads * ((bytes + threads * kRunBytes - 1) / (threads * kRunBytes));
    return (count + runs - 1) / runs;
}

}  // namespace

void linear(const Linear &job, const Worker &worker) {
    int64_t first_run = 0, channel = 0, claimed = worker.claim();
    for (const tiercel_matrix *part = job.parts; part != job.parts + job.num_parts; part++) {
        const int64_t count = panels(part->rows), per_run = panels_per_run(*part, worker.threads);
        const int64_t end = first_run + (count + per_run - 1) / per_run;
        for (; claimed < end; claimed = worker.claim()) {
            const int64_t first = (claimed - first_run) * per_run;
            const Panels run{*part, first, std::min(first + per_run, count), channel + first * kPanelRows};
            part->format == TIERCEL_BF16 ? linear_bf16(job, run, worker) : linear_quantised(job, run, worker);
        }
        first_run = end;
        channel += part->rows;
    }
}

}  // namespace tiercel::TIERCEL_LEVEL
