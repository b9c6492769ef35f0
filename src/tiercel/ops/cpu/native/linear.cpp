// Deals a product out to the threads, in runs of panels and blocks of rows that each thread claims when it is done with the
// last.

#include "linear.h"

namespace tiercel::TIERCEL_LEVEL {
namespace {

// What a thread claims at a time, about: long enough to stream, short enough for threads to finish together; and where many
// rows want the same weights again and again, what stays in a second-level cache beside them.
constexpr int64_t kRunBytes = 128 << 10, kRunBytesOfManyRows = 512 << 10;
constexpr int64_t kManyRows = 32;  // of quantised parts
constexpr int64_t kPanelsAtOnce = 4;  // kernels work on pairs or fours

int64_t ceil(int64_t count, int64_t size) { return (count + size - 1) / size; }

// Panels of a run. Threads that are equally fast get equally many runs.
int64_t panels_by_bytes(const Linear &job, const tiercel_matrix &part, int64_t threads) {
    const bool many = job.rows > (part.format == TIERCEL_BF16 ? kFewRows : kManyRows);
    const int64_t run_bytes = threads * (many ? kRunBytesOfManyRows : kRunBytes);
    const int64_t groups = (panels(part.rows) + kPanelsAtOnce - 1) / kPanelsAtOnce;
    const int64_t bytes = groups * kPanelsAtOnce * panel_bytes(part.format, part.columns);
    const int64_t runs = threads * ((bytes + run_bytes - 1) / run_bytes);
    return kPanelsAtOnce * ((groups + runs - 1) / runs);
}

// How a part is cut into runs of panels and blocks of rows; a unit is a run for a block.
struct Cut {
    int64_t panels_per_run, runs, rows_per_block, blocks;

    Cut(const Linear &job, const tiercel_matrix &part, int64_t threads) : rows_per_block(job.rows) {
        const bool bf16 = part.format == TIERCEL_BF16, int8 = part.format == TIERCEL_I8;
        if ((bf16 || int8) && job.rows > kChunkedRows) {
            const int64_t pairs = ceil(panels(part.rows), 2);
            const int64_t most = part.columns > (int8 ? 2 : 1) * kManyColumns ? kPairsOfLongRun : kPairsOfRun;
            panels_per_run = 2 * ceil(pairs, threads * ceil(pairs, threads * most));
            rows_per_block = 32 * ceil(job.rows, 32 * ceil(job.rows, kRowsOfBlock));  // equal blocks of whole strips
        } else {
            panels_per_run = panels_by_bytes(job, part, threads);
        }
        runs = ceil(panels(part.rows), panels_per_run);
        blocks = ceil(job.rows, rows_per_block);
    }
};

}  // namespace

void linear(const Linear &job, const Worker &worker) {
    if (job.rows == 0) return;  // a step without samples
    int64_t first_unit = 0, channel = 0, claimed = worker.claim();
    for (const tiercel_matrix *part = job.parts; part != job.parts + job.num_parts; part++) {
        if (part->rows == 0) continue;  // there is nothing to claim
        const Cut cut(job, *part, worker.threads);
        const int64_t end = first_unit + cut.blocks * cut.runs;
        for (; claimed < end; claimed = worker.claim()) {
            const int64_t run = (claimed - first_unit) % cut.runs, block = (claimed - first_unit) / cut.runs;
            const int64_t first = run * cut.panels_per_run, first_row = block * cut.rows_per_block;
            const Panels unit{*part, first, std::min(first + cut.panels_per_run, panels(part->rows)),
                              channel + first * kPanelRows, first_row,
                              std::min<int64_t>(first_row + cut.rows_per_block, job.rows)};
            const auto multiply = part->format == TIERCEL_BF16 ? linear_bf16
                                  : part->format == TIERCEL_I8 ? linear_int8
                                                               : linear_quantised;
            multiply(job, unit, worker);
        }
        first_unit = end;
        channel += part->rows;
    }
}

}  // namespace tiercel::TIERCEL_LEVEL
