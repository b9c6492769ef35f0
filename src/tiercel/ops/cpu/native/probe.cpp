// What the machine gives: memory read per second by all threads together, and the multiply-adds per second of a level.

#include <immintrin.h>

#include <algorithm>
#include <chrono>

#include "pool.h"

namespace tiercel {
namespace {

// Threads claim runs of memory, as products claim panels: a thread that is held up delays the end by one run at most.
constexpr int64_t kRun = 256 << 10;
constexpr int64_t kAhead = 4096;  // bytes between what is read and what is prefetched

struct Read {
    const uint8_t *memory;
    int64_t bytes;
    Counter runs;
    std::atomic<int64_t> sum{0};  // of all that was read, so that it has to be read
};

int64_t read(const uint8_t *memory, int64_t bytes) {
    __m256i sums[8] = {};
    for (int64_t at = 0; at + 256 <= bytes; at += 256) {
        for (int64_t line = 0; line < 256; line += 64) _mm_prefetch(memory + at + line + kAhead, _MM_HINT_T0);
        const __m256i *from = reinterpret_cast<const __m256i *>(memory + at);
        for (int i = 0; i < 8; i++) sums[i] = _mm256_add_epi64(sums[i], _mm256_loadu_si256(from + i));
    }
    for (int i = 1; i < 8; i++) sums[0] = _mm256_add_epi64(sums[0], sums[i]);
    return _mm256_extract_epi64(sums[0], 0) + _mm256_extract_epi64(sums[0], 1) + _mm256_extract_epi64(sums[0], 2) +
           _mm256_extract_epi64(sums[0], 3);
}

void read_runs(void *context, const Worker &) {
    Read &job = *static_cast<Read *>(context);
    int64_t sum = 0, start;
    while ((start = job.runs.next.fetch_add(kRun, std::memory_order_relaxed)) < job.bytes) {
        sum += read(job.memory + start, std::min(kRun, job.bytes - start));
    }
    job.sum.fetch_add(sum, std::memory_order_relaxed);
}

struct Rate {
    const Kernels &kernels;
    int32_t kind;
    std::atomic<double> sum{0};
};

void matrix_rates(void *context, const Worker &worker) {
    Rate &job = *static_cast<Rate *>(context);
    worker.barrier();  // together: processors may be slower when all are at work
    job.sum.fetch_add(job.kernels.matrix_rate(job.kind));
}

}  // namespace
}  // namespace tiercel

extern "C" double tiercel_probe(tiercel_pool *pool, int32_t kind, const uint8_t *memory, int64_t bytes) {
    if (kind != 0) {
        tiercel::Rate job{tiercel::kernels(pool->team.level()), kind};
        pool->team.run(tiercel::matrix_rates, &job);
        return job.sum.load();
    }
    using Clock = std::chrono::steady_clock;
    tiercel::Read job{memory, bytes, {}};
    const Clock::time_point start = Clock::now();
    pool->team.run(tiercel::read_runs, &job);
    return double(bytes) / std::chrono::duration<double>(Clock::now() - start).count();
}
