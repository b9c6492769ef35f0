// Norms, activations and copies: kernels that read little and end in `emit`.
//
// Order of arithmetic, per lane one rounding per operation and nothing fused:
//   rms_norm   squares are added in 16 lanes (channel c in lane c % 16, channels ascending, from +0), then over lanes by `sum`;
//              inverse = 1 / sqrt(total / size + eps); result = (x * inverse) * weight
//   silu_mul   e = exp2(gate * -log2(e)); result = (gate / (1 + e)) * up
//   add        a + b
//
// A norm needs whole rows, so rows are dealt out. The others deal out groups of 32 channels, which are whole in most forms that
// a result can take: a decode step of one row keeps all threads busy. The i8 form takes whole rows again.

#include <algorithm>
#include <cmath>
#include <cstring>

#include "activations.h"
#include "emit.h"
#include "unpack.h"

namespace tiercel::TIERCEL_LEVEL {
namespace {

constexpr int64_t kGroup = 32;

// out[i] = f(a[i], b[i]) for `count` values, 16 at a time; the last few go through arrays of their own. out may be a or b.
template <typename F> void combine(const float *a, const float *b, float *out, int64_t count, F f) {
    const int64_t whole = count / kLanes * kLanes;
    for (int64_t i = 0; i < whole; i += kLanes) store(out + i, f(load(a + i), load(b + i)));
    if (whole == count) return;
    float tail_a[kLanes] = {}, tail_b[kLanes] = {};
    const size_t bytes = (count - whole) * sizeof(float);
    std::memcpy(tail_a, a + whole, bytes);
    std::memcpy(tail_b, b + whole, bytes);
    store(tail_a, f(load(tail_a), load(tail_b)));
    std::memcpy(out + whole, tail_a, bytes);
}

float sum_of_squares(const float *x, int64_t count) {
    const int64_t whole = count / kLanes * kLanes;
    F32 total = zero();
    for (int64_t i = 0; i < whole; i += kLanes) total = total + load(x + i) * load(x + i);
    if (whole < count) {
        float tail[kLanes] = {};
        std::memcpy(tail, x + whole, (count - whole) * sizeof(float));
        total = total + load(tail) * load(tail);
    }
    return sum(total);
}

// Where rows are worked on, one after the other: float32 values in the result itself, or in the thread's own memory if nobody
// wants them; the i8 form always in the latter, when all else of the row is done.
class Rows {
  public:
    Rows(const Result &out, int64_t channels, const Worker &worker) : out_(out) {
        const int64_t bytes = padded_row(channels) * int64_t(sizeof(float));
        if (!out.f32 || out.i8) own_ = reinterpret_cast<float *>(worker.scratch(bytes));
    }
    float *row(int64_t index) const { return out_.f32 ? out_.f32 + index * out_.stride : own_; }
    float *spare() const { return own_; }

  private:
    const Result &out_;
    float *own_ = nullptr;
};

// Calls part(row, first, last) for this thread's share of [rows, channels], in whole groups of channels or whole rows.
template <typename F> void share_groups(int64_t rows, int64_t channels, bool whole_rows, const Worker &worker, F part) {
    const int64_t groups = whole_rows ? 1 : padded_channels(channels) / kGroup;
    const int64_t size = whole_rows ? padded_channels(channels) : kGroup;
    int64_t next, end;
    worker.share(rows * groups, next, end);
    while (next < end) {
        const int64_t row = next / groups, start = row * groups;
        const int64_t stop = std::min(end, start + groups);
        part(row, (next - start) * size, std::min((stop - start) * size, channels));
        next = stop;
    }
}

// result = f(a, b), by elements.
template <typename F>
void elementwise(const float *a, int64_t stride_a, const float *b, int64_t stride_b, int64_t rows, int64_t channels,
                 const Result &out, const Worker &worker, F f) {
    const Rows space(out, channels, worker);
    share_groups(rows, channels, out.i8, worker, [&](int64_t index, int64_t first, int64_t last) {
        float *row = space.row(index);
        combine(a + index * stride_a + first, b + index * stride_b + first, row + first, last - first, f);
        emit_part(row, channels, first, last, index, out);
        if (out.i8) emit_i8(row, channels, index, out, space.spare());
    });
}

}  // namespace

void rms_norm(const RmsNorm &job, const Worker &worker) {
    const Rows space(job.out, job.channels, worker);
    int64_t first, last;
    worker.share(job.rows, first, last);
    for (int64_t index = first; index < last; index++) {
        const float *x = job.x + index * job.stride;
        float *row = space.row(index);
        for (int64_t at = 0; at < job.channels; at += job.size) {
            const float mean = sum_of_squares(x + at, job.size) / static_cast<float>(job.size);
            const F32 inverse = all(1.0f / std::sqrt(mean + job.eps));
            combine(x + at, job.weight, row + at, job.size, [&](F32 value, F32 weight) { return value * inverse * weight; });
        }
        emit(row, job.channels, index, job.out, space.spare());
    }
}

void silu_mul(const SiluMul &job, const Worker &worker) {
    elementwise(job.gate, job.stride_gate, job.up, job.stride_up, job.rows, job.channels, job.out, worker,
                [](F32 gate, F32 up) { return gate / (all(1.0f) + exp2(gate * all(-kLog2E))) * up; });
}

void add(const Add &job, const Worker &worker) {
    elementwise(job.a, job.stride_a, job.b, job.stride_b, job.rows, job.channels, job.out, worker,
                [](F32 a, F32 b) { return a + b; });
}

void convert(const Convert &job, const Worker &worker) {
    const Rows space(job.out, job.channels, worker);
    share_groups(job.rows, job.channels, job.out.i8, worker, [&](int64_t index, int64_t first, int64_t last) {
        const float *row = job.x + (job.ids ? job.ids[index] : index) * job.stride;
        emit_part(row, job.channels, first, last, index, job.out);
        if (job.out.i8) emit_i8(row, job.channels, index, job.out, space.spare());
    });
}

void embedding(const Embedding &job, const Worker &worker) {
    int64_t first, last;
    worker.share(job.rows, first, last);
    const int64_t channels = job.table->columns;
    const Rows space(job.out, channels, worker);
    for (int64_t index = first; index < last; index++) {
        float *row = space.row(index);
        unpack_row(*job.table, job.token_ids[index], row);
        emit(row, channels, index, job.out, space.spare());
    }
}

}  // namespace tiercel::TIERCEL_LEVEL
