// Products of 8-bit activations with quantised weights.
//
// Per run of 32 columns (twice 16 in Q6_K), in the order of columns, for each output:
//   isum = sum over the columns of (quant - zero point) * integer of x          exact, in int32
//   acc  = fma(float(isum), scale_w * scale_x, acc)
//   acc  = fma(scale_x * float(sum of the integers of x), min_w, acc)           formats with a minimum
// with scale_w = d * scale and min_w = -(dmin * min) in K-quants; acc starts at +0. The result is (acc + bias) + residual.
//
// A panel's 16 outputs are the lanes of a vector. Few rows read the panel as it streams in from memory, and unpack it as they go.
// For many rows panels are unpacked once into working memory.

#include <cstring>

#include "activations.h"
#include "linear.h"
#include "quantised_formats.h"

namespace tiercel::TIERCEL_LEVEL {
namespace {

constexpr int kDirectRows = 4;           // with more rows than this, panels are unpacked first
constexpr int kBlockRows = 8;            // rows that share a register's worth of unpacked weights
constexpr int64_t kUnpackedBytes = 256 << 10;  // panels unpacked at a time: half the second-level cache of small machines
constexpr int64_t kAhead = 2048;         // bytes between what is multiplied and what is fetched

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

// One panel times `rows` rows, whose accumulators stay in registers.
template <class Format, int rows, bool stream>
inline void multiply(const Linear &job, const Panels &panels, int64_t panel, const uint8_t *group, int64_t row) {
    const int64_t runs = padded_channels(panels.part.columns) / 32;
    const uint8_t *x = job.x_q8 + row * job.stride_q8;
    const Q8Row first(x, panels.part.columns);
    F32 acc[rows];
    for (int r = 0; r < rows; r++) acc[r] = zero();
    auto multiply_run = [&](int64_t number, int run) {
        const Quads w = Format::quads(group, run);
        F32 scales[Format::kParts], minimum;
        for (int part = 0; part < Format::kParts; part++) scales[part] = Format::scale(group, run, part);
        if (Format::kMinimum) minimum = Format::minimum(group, run);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            const int64_t skip = r * job.stride_q8;
            const int8_t *values = first.values + skip + 32 * number;
            auto at = [&](const auto *p) { return reinterpret_cast<decltype(p)>(reinterpret_cast<const uint8_t *>(p) + skip); };
            const F32 scale_x = all(at(first.scales)[number]);
            const int16_t *sums = at(first.sums) + 2 * number;
            if constexpr (Format::kParts == 1) {
                acc[r] = fma(to_float(dot<Format, 0, 8>(w, values, sums)), scales[0] * scale_x, acc[r]);
            } else {
                acc[r] = fma(to_float(dot<Format, 0, 4>(w, values, sums)), scales[0] * scale_x, acc[r]);
                acc[r] = fma(to_float(dot<Format, 4, 4>(w, values, sums)), scales[1] * scale_x, acc[r]);
            }
            if (Format::kMinimum) acc[r] = fma(all(at(first.scaled_sums)[number]), minimum, acc[r]);
        }
    };
    int64_t number = 0;
    for (; number + Format::kRuns <= runs; number += Format::kRuns, group += Format::kBytes) {
        if (stream) {
            for (int at = 0; at < Format::kBytes; at += 64) _mm_prefetch(reinterpret_cast<const char *>(group + kAhead + at), _MM_HINT_T0);
        }
#pragma GCC unroll 2
        for (int run = 0; run < Format::kRuns; run++) multiply_run(number + run, run);
    }
    for (int run = 0; number + run < runs; run++) multiply_run(number + run, run);
    for (int r = 0; r < rows; r++) finish(job, row + r, panels.channel_of(panel), panels.channels_of(panel), acc[r]);
}

template <class Format, int most, bool stream>
void multiply_rows(const Linear &job, const Panels &panels, int64_t panel, const uint8_t *data) {
    int64_t row = 0;
    for (; row + most <= job.rows; row += most) multiply<Format, most, stream>(job, panels, panel, data, row);
    if constexpr (most > 1) {
        if (job.rows - row >= most / 2) {
            multiply<Format, most / 2, stream>(job, panels, panel, data, row);
            row += most / 2;
        }
        if constexpr (most > 2) {
            if (job.rows - row >= most / 4) {
                multiply<Format, most / 4, stream>(job, panels, panel, data, row);
                row += most / 4;
            }
        }
    }
    for (; row < job.rows; row++) multiply<Format, 1, stream>(job, panels, panel, data, row);
}

template <class Format> void unpack(const Panels &panels, int64_t panel, uint8_t *out) {
    const uint8_t *group = panels.data(panel);
    const int64_t runs = padded_channels(panels.part.columns) / 32;
    for (int64_t number = 0; number < runs; number++, out += Unpacked<Format>::kBytes) {
        const int run = number % Format::kRuns;
        Unpacked<Format>::write(out, group, run);
        if (run == Format::kRuns - 1) group += Format::kBytes;
    }
}

template <class Format> void linear_format(const Linear &job, const Panels &panels, const Worker &worker) {
    if (job.rows <= kDirectRows) {
        for (int64_t panel = panels.first; panel < panels.last; panel++) {
            multiply_rows<Format, kDirectRows, true>(job, panels, panel, panels.data(panel));
        }
        return;
    }
    const int64_t bytes = padded_channels(panels.part.columns) / 32 * Unpacked<Format>::kBytes;
    const int64_t count = std::max<int64_t>(1, kUnpackedBytes / bytes);
    uint8_t *unpacked = worker.scratch(std::min(count, panels.last - panels.first) * bytes);
    for (int64_t first = panels.first; first < panels.last; first += count) {
        const int64_t last = std::min(first + count, panels.last);
        for (int64_t panel = first; panel < last; panel++) unpack<Format>(panels, panel, unpacked + (panel - first) * bytes);
        for (int64_t panel = first; panel < last; panel++) {
            multiply_rows<Unpacked<Format>, kBlockRows, false>(job, panels, panel, unpacked + (panel - first) * bytes);
        }
    }
}

}  // namespace

void linear_quantised(const Linear &job, const Panels &panels, const Worker &worker) {
    switch (panels.part.format) {
        case TIERCEL_Q8_0: return linear_format<Format<TIERCEL_Q8_0>>(job, panels, worker);
        case TIERCEL_Q4_0: return linear_format<Format<TIERCEL_Q4_0>>(job, panels, worker);
        case TIERCEL_Q4_1: return linear_format<Format<TIERCEL_Q4_1>>(job, panels, worker);
        case TIERCEL_Q5_0: return linear_format<Format<TIERCEL_Q5_0>>(job, panels, worker);
        case TIERCEL_Q4_K: return linear_format<Format<TIERCEL_Q4_K>>(job, panels, worker);
        case TIERCEL_Q6_K: return linear_format<Format<TIERCEL_Q6_K>>(job, panels, worker);
        default: return;
    }
}

}  // namespace tiercel::TIERCEL_LEVEL
