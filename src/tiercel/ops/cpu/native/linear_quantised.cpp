// Products of 8-bit activations with quantised weights.
//
// Per run of 32 columns (twice 16 in Q6_K), in the order of columns, for each output:
//   isum = sum over the columns of (quant - zero point) * integer of x          exact, in int32
//   acc  = fma(float(isum), scale_w * scale_x, acc)
//   acc  = fma(scale_x * float(sum of the integers of x), min_w, acc)           formats with a minimum
// with scale_w = d * scale and min_w = -(dmin * min) in K-quants; acc starts at +0. The result is (acc + bias) + residual.
//
// A panel's 16 outputs are the lanes of a vector. Few rows read a panel as it streams in from memory, and unpack it as they go;
// for many rows panels are unpacked once into working memory, and with AMX their integer sums are taken by tiles.

#include <cstring>

#include "activations.h"
#include "linear.h"
#include "quantised_formats.h"
#ifdef __AMX_INT8__
#include "quantised_tiles.h"
#endif

namespace tiercel::TIERCEL_LEVEL {
namespace {

// Rows that share a run's unpacked weights in registers; with more rows than this, panels are unpacked first.
#ifdef __AVX512F__
constexpr int kBlockRows = 8;
#else
constexpr int kBlockRows = 4;
#endif
// Bytes from what is multiplied to what is fetched; 2048 is slower, for out of order a processor gets as far by itself.
constexpr int64_t kAhead = 4096;
// Panels that one row is multiplied by at a time, and how far ahead each is fetched.
constexpr int kSideBySide = 4;
constexpr int64_t kAheadSideBySide = 1024;
// Few rows are read once per panel. Of more, each block of rows takes as many panels as fit the second-level cache: a row's
// results lie side by side, those of the next in another page, and too many pages cost more than the products.
constexpr int64_t kRowsBytes = 128 << 10, kUnpackedBytes = 256 << 10;

inline I32 broadcast(const void *four_bytes) {
    int32_t word;
    std::memcpy(&word, four_bytes, sizeof word);
    return all(word);
}

#ifdef __AVX512F__

// Sum of (quant - zero point) * x over quads first .. first + count - 1. sums: of x over 16 columns, two.
template <class Format, int first, int count> I32 dot(const Quads &w, const int8_t *x, const int16_t *sums) {
    constexpr int32_t low = first < 4 ? uint16_t(-Format::kZero) : 0;
    constexpr int32_t high = first + count > 4 ? int32_t(uint32_t(-Format::kZero) << 16) : 0;
    __m512i even = _mm512_setzero_si512(), odd = _mm512_setzero_si512();
    if (Format::kZero) even = _mm512_dpwssd_epi32(even, broadcast(sums).v, all(low | high).v);
    for (int j = first; j < first + count; j += 2) {
        even = _mm512_dpbusd_epi32(even, w.quad[j].v, broadcast(x + 4 * j).v);
        odd = _mm512_dpbusd_epi32(odd, w.quad[j + 1].v, broadcast(x + 4 * j + 4).v);
    }
    return {_mm512_add_epi32(even, odd)};
}

#else

// 8 rows of it. Products of two columns are added in 16 bits, of which they need kBits + 7 + 1; `batch` of them fit.
template <class Format, int first, int count> __m256i dot_half(const __m256i *w, const int8_t *x, const int16_t *sums) {
    constexpr int batch = Format::kBits == 4 ? 8 : Format::kBits == 5 ? 4 : Format::kBits == 6 ? 2 : 1;
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i sum = _mm256_setzero_si256();
    for (int j = first; j < first + count; j += batch) {
        __m256i pairs = _mm256_setzero_si256();
        for (int i = j; i < j + batch && i < first + count; i++) {
            __m256i four = broadcast(x + 4 * i).lo, product;
            if (Format::kBits == 8) {  // |w| * (x with the sign of w): at most 128 * 127 * 2
                __m256i value = _mm256_xor_si256(w[i], _mm256_set1_epi8(-128));
                product = _mm256_maddubs_epi16(_mm256_abs_epi8(value), _mm256_sign_epi8(four, value));
            } else {
                product = _mm256_maddubs_epi16(w[i], four);
            }
            pairs = i == j ? product : _mm256_add_epi16(pairs, product);
        }
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, ones));
    }
    if (Format::kZero == 0 || Format::kBits == 8) return sum;
    constexpr int32_t low = first < 4 ? uint16_t(-Format::kZero) : 0;
    constexpr int32_t high = first + count > 4 ? int32_t(uint32_t(-Format::kZero) << 16) : 0;
    return _mm256_add_epi32(sum, _mm256_madd_epi16(broadcast(sums).lo, _mm256_set1_epi32(low | high)));
}

template <class Format, int first, int count> I32 dot(const Quads &w, const int8_t *x, const int16_t *sums) {
    __m256i lo[8], hi[8];
    for (int j = 0; j < 8; j++) lo[j] = w.quad[j].lo, hi[j] = w.quad[j].hi;
    return {dot_half<Format, first, count>(lo, x, sums), dot_half<Format, first, count>(hi, x, sums)};
}

#endif

// One panel times `rows` rows, whose accumulators stay in registers. fetch: memory to be read later, at the product's pace.
template <class Form, int rows>
inline void multiply(const Linear &job, const Panels &panels, int64_t panel, const uint8_t *group, int64_t row,
                     const uint8_t *fetch) {
    const int64_t runs = padded_channels(panels.part.columns) / 32;
    F32 acc[rows];
    for (int r = 0; r < rows; r++) acc[r] = zero();
    auto multiply_run = [&](int64_t number, int run) {
        if (fetch) prefetch<Form::kFetched>(fetch + number * Form::kFetched);
        const Quads w = Form::quads(group, run);
        F32 scales[Form::kParts], minimum = zero();
        for (int part = 0; part < Form::kParts; part++) scales[part] = Form::scale(group, run, part);
        if (Form::kMinimum) minimum = Form::minimum(group, run);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            const Q8Row x(job.x_q8 + (row + r) * job.stride_q8, panels.part.columns);
            const int8_t *values = x.values + 32 * number;
            const int16_t *sums = x.sums + 2 * number;
            const F32 scale_x = all(x.scales[number]);
            if constexpr (Form::kParts == 1) {
                acc[r] = fma(to_float(dot<Form, 0, 8>(w, values, sums)), scales[0] * scale_x, acc[r]);
            } else {
                acc[r] = fma(to_float(dot<Form, 0, 4>(w, values, sums)), scales[0] * scale_x, acc[r]);
                acc[r] = fma(to_float(dot<Form, 4, 4>(w, values, sums)), scales[1] * scale_x, acc[r]);
            }
            if (Form::kMinimum) acc[r] = fma(all(x.scaled_sums[number]), minimum, acc[r]);
        }
    };
    int64_t number = 0;
    for (; number + Form::kRuns <= runs; number += Form::kRuns, group += Form::kBytes) {
#pragma GCC unroll 2
        for (int run = 0; run < Form::kRuns; run++) multiply_run(number + run, run);
    }
    for (int run = 0; number + run < runs; run++) multiply_run(number + run, run);
    for (int r = 0; r < rows; r++) finish(job, row + r, panels.channel_of(panel), panels.channels_of(panel), acc[r]);
}

// Fewer than 2 * most rows. The product of a row is the same whatever rows are beside it.
template <class Form, int most>
void multiply_block(const Linear &job, const Panels &panels, int64_t panel, const uint8_t *data, int64_t row, int64_t last,
                    const uint8_t *fetch) {
    if (last - row >= most) {
        multiply<Form, most>(job, panels, panel, data, row, fetch);
        row += most;
        fetch = nullptr;
    }
    if constexpr (most > 1) {
        if (row < last) multiply_block<Form, most / 2>(job, panels, panel, data, row, last, fetch);
    }
}

// Rows by lanes, from panels that were unpacked.
template <class From> struct ByLanes {
    using Form = Unpacked<From>;
    static constexpr int kRows = kBlockRows;
    static int64_t scratch_bytes(const Linear &, const Panels &) { return 0; }
    ByLanes(const Linear &job, const Panels &panels, uint8_t *) : job_(job), panels_(panels) {}
    static Quads prepare(const Quads &q) { return q; }
    void rows(int64_t first, int64_t last) { first_ = first, last_ = last; }
    void multiply(int64_t panel, const uint8_t *data, const uint8_t *fetch) const {
        multiply_block<Form, kRows>(job_, panels_, panel, data, first_, last_, fetch);
    }

  private:
    const Linear &job_;
    const Panels &panels_;
    int64_t first_ = 0, last_ = 0;
};

#ifdef __AMX_INT8__
template <class From> using ManyRows = ByTiles<From>;
#else
template <class From> using ManyRows = ByLanes<From>;
#endif

// Adds a run of one row and panel to its sum.
template <class Form>
inline void add_run(const uint8_t *group, int run, const Q8Row &x, int64_t number, F32 scale_x, F32 &acc) {
    const Quads w = Form::quads(group, run);
    const int8_t *values = x.values + 32 * number;
    const int16_t *sums = x.sums + 2 * number;
    if constexpr (Form::kParts == 1) {
        acc = fma(to_float(dot<Form, 0, 8>(w, values, sums)), Form::scale(group, run, 0) * scale_x, acc);
    } else {
        acc = fma(to_float(dot<Form, 0, 4>(w, values, sums)), Form::scale(group, run, 0) * scale_x, acc);
        acc = fma(to_float(dot<Form, 4, 4>(w, values, sums)), Form::scale(group, run, 1) * scale_x, acc);
    }
    if (Form::kMinimum) acc = fma(all(x.scaled_sums[number]), Form::minimum(group, run), acc);
}

template <class From> void unpack(const Panels &panels, int64_t panel, uint8_t *out) {
    const uint8_t *group = panels.data(panel);
    const int64_t runs = padded_channels(panels.part.columns) / 32;
    for (int64_t number = 0; number < runs; number++, out += Unpacked<From>::kBytes) {
        const int run = number % From::kRuns;
        prefetch<From::kFetched>(group + run * From::kFetched + kAhead);
        Unpacked<From>::write(out, ManyRows<From>::prepare(From::quads(group, run)), group, run);
        if (run == From::kRuns - 1) group += From::kBytes;
    }
}

template <class From> void multiply_many_rows(const Linear &job, const Panels &panels, const Worker &worker) {
    using Rows = ManyRows<From>;
    const int64_t columns = padded_channels(panels.part.columns), bytes = columns / 32 * Unpacked<From>::kBytes;
    int64_t count = 1;
    if (job.rows * columns > kRowsBytes) count = std::max<int64_t>(1, kUnpackedBytes / bytes);
    uint8_t *unpacked = worker.scratch(count * bytes + Rows::scratch_bytes(job, panels));
    Rows rows(job, panels, unpacked + count * bytes);
    for (int64_t first = panels.first; first < panels.last; first += count) {
        const int64_t last = std::min(first + count, panels.last);
        for (int64_t panel = first; panel < last; panel++) unpack<From>(panels, panel, unpacked + (panel - first) * bytes);
        for (int64_t row = 0; row < job.rows; row += Rows::kRows) {
            rows.rows(row, std::min<int64_t>(row + Rows::kRows, job.rows));
            const bool fetches = row == 0 && count == 1 && last < panels.last;
            for (int64_t panel = first; panel < last; panel++) {
                rows.multiply(panel, unpacked + (panel - first) * bytes, fetches ? panels.data(last) : nullptr);
            }
        }
    }
}

// One row times `wide` panels that stream in side by side: memory delivers several streams faster than one.
template <class From, int wide> void multiply_side_by_side(const Linear &job, const Panels &panels, int64_t panel) {
    const int64_t runs = padded_channels(panels.part.columns) / 32;
    const Q8Row x(job.x_q8, panels.part.columns);
    const uint8_t *groups[wide];
    F32 acc[wide];
    for (int p = 0; p < wide; p++) groups[p] = panels.data(panel + p), acc[p] = zero();
    for (int64_t number = 0; number < runs; number++) {
        const int run = number % From::kRuns;
        const F32 scale_x = all(x.scales[number]);
#pragma GCC unroll 4
        for (int p = 0; p < wide; p++) {
            const uint8_t *group = groups[p];
            prefetch<From::kFetched>(group + run * From::kFetched + kAheadSideBySide);
            add_run<From>(group, run, x, number, scale_x, acc[p]);
            if (run == From::kRuns - 1) groups[p] += From::kBytes;
        }
    }
    for (int p = 0; p < wide; p++) {
        finish(job, 0, panels.channel_of(panel + p), panels.channels_of(panel + p), acc[p]);
    }
}

template <class From> void multiply(const Linear &job, const Panels &panels, const Worker &worker) {
    if (job.rows > kBlockRows) return multiply_many_rows<From>(job, panels, worker);
    int64_t start = panels.first;
    if (job.rows == 1) {
        for (; start + kSideBySide <= panels.last; start += kSideBySide) {
            multiply_side_by_side<From, kSideBySide>(job, panels, start);
        }
    }
    for (int64_t panel = start; panel < panels.last; panel++) {
        const uint8_t *data = panels.data(panel);
        multiply_block<From, kBlockRows>(job, panels, panel, data, 0, job.rows, data + kAhead);
    }
}

}  // namespace

void linear_quantised(const Linear &job, const Panels &panels, const Worker &worker) {
    switch (panels.part.format) {
        case TIERCEL_Q8_0: return multiply<Format<TIERCEL_Q8_0>>(job, panels, worker);
        case TIERCEL_Q4_0: return multiply<Format<TIERCEL_Q4_0>>(job, panels, worker);
        case TIERCEL_Q4_1: return multiply<Format<TIERCEL_Q4_1>>(job, panels, worker);
        case TIERCEL_Q5_0: return multiply<Format<TIERCEL_Q5_0>>(job, panels, worker);
        case TIERCEL_Q4_K: return multiply<Format<TIERCEL_Q4_K>>(job, panels, worker);
        case TIERCEL_Q6_K: return multiply<Format<TIERCEL_Q6_K>>(job, panels, worker);
        default: return;
    }
}

}  // namespace tiercel::TIERCEL_LEVEL
