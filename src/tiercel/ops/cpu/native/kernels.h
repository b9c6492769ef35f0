// What the program asks of the kernels: one table of functions per instruction set, filled from the same sources.
//
// A kernel is called by every thread of the pool with the same job and its own `Worker`. Threads share the work by claiming
// units from the job's counter, or by cutting rows evenly (`worker.share`). No result depends on who computes it: a row's
// value depends on that row only, in an order that is written down with each kernel and is the same at every level.

#pragma once

#include <atomic>
#include <cstdint>

#include "api.h"

namespace tiercel {

// A job's next unclaimed unit, on a cache line of its own.
struct alignas(64) Counter {
    std::atomic<int64_t> next{0};
};

// One thread's view of a job.
class Team;
struct Worker {
    int32_t index;
    int32_t threads;
    std::atomic<int64_t> *counter;  // the job's next unclaimed unit
    Team *team;

    int64_t claim() const { return counter->fetch_add(1, std::memory_order_relaxed); }
    // This thread's even share of `count` things: [first, last).
    void share(int64_t count, int64_t &first, int64_t &last) const {
        first = count * index / threads;
        last = count * (index + 1) / threads;
    }
    void barrier() const;                    // waits for all threads of the job
    uint8_t *scratch(int64_t bytes) const;   // this thread's working memory, 64-byte aligned, kept between jobs
    uint8_t *shared(int64_t bytes) const;    // the job's working memory, one for all threads: call it with equal bytes in all
};

// A result in the forms that whoever reads it next wants; null = not wanted.
struct Result {
    float *f32;
    int64_t stride;       // floats
    uint16_t *bf16;       // this and what follows: see activations.h; bf16 tiles of all rows
    uint8_t *q8;
    int64_t stride_q8;    // bytes
    uint8_t *i8;          // int8 tiles of all rows
    int32_t rows;         // of the result
};

struct Linear {
    const tiercel_matrix *parts;  // joined along their rows, the result's channels
    int32_t num_parts;
    int32_t rows;                 // of x
    const uint16_t *x_bf16;       // for BF16 parts
    const uint8_t *x_q8;          // for the formats of files
    int64_t stride_q8;
    const uint8_t *x_i8;          // for I8 parts
    const float *bias;            // [channels] or null
    const float *residual;        // [rows, channels] or null; may be `out`
    int64_t stride_residual;
    float *out;                   // (product + bias) + residual
    int64_t stride;
};

struct RmsNorm {
    const float *x;
    int64_t stride;
    int32_t rows, channels;
    const float *weight;
    int32_t size;  // of a run
    float eps;
    Result out;
};

struct SiluMul {
    const float *gate, *up;
    int64_t stride_gate, stride_up;
    int32_t rows, channels;
    Result out;
};

struct Add {
    const float *a, *b;
    int64_t stride_a, stride_b;
    int32_t rows, channels;
    Result out;
};

struct Convert {
    const float *x;
    int64_t stride;
    int32_t rows, channels;
    const int32_t *ids;  // rows of x to take, or null for all in order
    Result out;
};

struct Embedding {
    const int32_t *token_ids;
    int32_t rows;
    const tiercel_matrix *table;
    Result out;
};

struct Rope {
    const float *x;
    int64_t stride;
    int32_t rows, channels;
    const int32_t *positions;
    const float *cos, *sin;  // [positions, head_dim / 2]
    int32_t head_dim;
    bool interleaved;
    float *out;
    int64_t stride_out;
};

struct KVWrite {
    const float *k, *v;
    int64_t stride_k, stride_v;
    int32_t rows;
    const tiercel_group *group;
    int32_t layer;
};

struct Attention {
    const float *q;  // [rows, heads * head_dim]
    int64_t stride;
    int32_t rows, heads, layer, window, sink_tokens;
    float scale;
    const tiercel_group *group;
    float *out;      // [rows, heads * head_dim]
    int64_t stride_out;
    float *lse;      // [rows, heads] or null
    int64_t stride_lse;
};

struct Kernels {
    void (*linear)(const Linear &, const Worker &);
    void (*rms_norm)(const RmsNorm &, const Worker &);
    void (*silu_mul)(const SiluMul &, const Worker &);
    void (*add)(const Add &, const Worker &);
    void (*convert)(const Convert &, const Worker &);
    void (*embedding)(const Embedding &, const Worker &);
    void (*rope)(const Rope &, const Worker &);
    void (*kv_write)(const KVWrite &, const Worker &);
    void (*attention)(const Attention &, const Worker &);
    double (*matrix_rate)(int32_t kind);  // see tiercel_probe; one thread, operations per second
};

extern const Kernels kernels_avx2, kernels_avx512, kernels_amx;

inline const Kernels &kernels(int32_t level) {
    return level == TIERCEL_AMX ? kernels_amx : level == TIERCEL_AVX512 ? kernels_avx512 : kernels_avx2;
}

}  // namespace tiercel
