// Products of int8 activations and I8 panels.
//
// For each row and output channel: isum = sum over all columns of w * x, exact in int32; result = (float(isum) * (scale_w *
// scale_x) + bias) + residual, one rounding per operation.

#include "linear_int8.h"

#include <cstring>

#include "quantise_row.h"
#ifdef __AMX_INT8__
#include "linear_int8_tiles.h"
#endif

namespace tiercel::TIERCEL_LEVEL {
namespace {

#ifndef __AMX_INT8__
// By lanes: lane i is output channel i of a panel.

constexpr int64_t kGroup = 64;
constexpr int64_t kGroupBytes = 1024;
constexpr int64_t kAhead = 1024;  // bytes from what is read to what is fetched

inline void fetch_group(const uint8_t *weights) {
    for (int64_t line = 0; line < kGroupBytes; line += 64) _mm_prefetch(weights + kAhead + line, _MM_HINT_T0);
}

constexpr int64_t kRowsBytes = 1 << 20;  // of x that are multiplied by all panels of a run before the next

inline I32 broadcast(const int8_t *four) {
    int32_t word;
    std::memcpy(&word, four, sizeof word);
    return all(word);
}

#ifdef __AVX512F__

constexpr int kRows = 8, kPanels = 2;  // whose sums are held in registers
constexpr int kPanelsOfOneRow = 4;     // memory delivers several streams faster than one

// Four columns of a panel's 16 rows. One factor of an instruction has no sign: 128 is added to weights.
struct Quad {
    __m512i w;
    explicit Quad(const uint8_t *p) : w(_mm512_xor_si512(_mm512_loadu_si512(p), _mm512_set1_epi8(-128))) {}
    I32 add(I32 sum, const int8_t *x) const { return {_mm512_dpbusd_epi32(sum.v, w, broadcast(x).v)}; }
};
constexpr uint32_t kAddedToWeights = 128;

#else

constexpr int kRows = 4, kPanels = 1;
constexpr int kPanelsOfOneRow = 2;

// Four columns of a panel's 16 rows. One factor of an instruction has no sign: x takes that of the weight. Sums of two products
// fit 16 bits, since |w| and |x| are at most 127.
struct Quad {
    __m256i lo, hi, abs_lo, abs_hi;
    explicit Quad(const uint8_t *p)
        : lo(load_half(p)), hi(load_half(p + 32)), abs_lo(_mm256_abs_epi8(lo)), abs_hi(_mm256_abs_epi8(hi)) {}
    I32 add(I32 sum, const int8_t *x) const {
        const __m256i four = broadcast(x).lo, ones = _mm256_set1_epi16(1);
        const __m256i a = _mm256_maddubs_epi16(abs_lo, _mm256_sign_epi8(four, lo));
        const __m256i b = _mm256_maddubs_epi16(abs_hi, _mm256_sign_epi8(four, hi));
        return sum + I32{_mm256_madd_epi16(a, ones), _mm256_madd_epi16(b, ones)};
    }
};
constexpr uint32_t kAddedToWeights = 0;

#endif

// `rows` rows times `wide` panels, whose sums stay in registers. All rows belong to one block of x. The first rows of a run
// fetch weights ahead, the rest find them in a cache.
template <int rows, int wide> void multiply_block(const Linear &job, const Panels &run, int64_t panel, int64_t row) {
    const bool fetches = row == run.first_row;
    const I8Rows x = rows_of(job, run.part.columns);
    const int64_t tile_bytes = x.block_rows * kGroup;
    const int8_t *values = x.at(row, 0);
    const uint8_t *weights[wide];
    I32 sums[rows][wide];
    for (int p = 0; p < wide; p++) {
        weights[p] = run.data(panel + p);
        for (int r = 0; r < rows; r++) sums[r][p] = all(0);
    }
    for (int64_t group = 0; group < x.groups; group++, values += tile_bytes) {
        for (int p = 0; fetches && p < wide; p++) fetch_group(weights[p] + group * kGroupBytes);
#pragma GCC unroll 4
        for (int quad = 0; quad < 16; quad++) {
#pragma GCC unroll 4
            for (int p = 0; p < wide; p++) {
                const Quad w(weights[p] + group * kGroupBytes + quad * 64);
#pragma GCC unroll 8
                for (int r = 0; r < rows; r++) sums[r][p] = w.add(sums[r][p], values + r * kGroup + quad * 4);
            }
        }
    }
    for (int p = 0; p < wide; p++) {
        const F32 scale_w = scales_of(run, panel + p);
        for (int r = 0; r < rows; r++) {
            const I32 added = all(int32_t(kAddedToWeights * uint32_t(x.sums[row + r])));
            finish_sums(job, row + r, run.channel_of(panel + p), run.channels_of(panel + p), scale_w, x.scales[row + r],
                        sums[r][p] - added);
        }
    }
}

// Fewer than 2 * most rows. The product of a row is the same whatever rows are beside it.
template <int most, int wide>
void multiply_last_rows(const Linear &job, const Panels &run, int64_t panel, int64_t row, int64_t last) {
    if (last - row >= most) {
        multiply_block<most, wide>(job, run, panel, row);
        row += most;
    }
    if constexpr (most > 1) {
        if (row < last) multiply_last_rows<most / 2, wide>(job, run, panel, row, last);
    }
}

template <int wide> void multiply_rows(const Linear &job, const Panels &run, int64_t panel, int64_t first, int64_t last) {
    int64_t row = first;
    for (; row + kRows <= last; row += kRows) multiply_block<kRows, wide>(job, run, panel, row);
    if (row < last) multiply_last_rows<kRows / 2, wide>(job, run, panel, row, last);
}

void multiply(const Linear &job, const Panels &run, const Worker &) {
    int64_t panel = run.first;
    if (job.rows == 1) {
        for (; panel + kPanelsOfOneRow <= run.last; panel += kPanelsOfOneRow)
            multiply_block<1, kPanelsOfOneRow>(job, run, panel, 0);
    }
    const int64_t at_once = std::max<int64_t>(kRows, kRowsBytes / padded_row(run.part.columns) / kRows * kRows);
    for (int64_t row = run.first_row; row < run.last_row; row += at_once) {
        const int64_t last = std::min(row + at_once, run.last_row);
        int64_t at = panel;
        for (; at + kPanels <= run.last; at += kPanels) multiply_rows<kPanels>(job, run, at, row, last);
        if constexpr (kPanels > 1) {
            for (; at < run.last; at++) multiply_rows<1>(job, run, at, row, last);
        }
    }
}

#endif

}  // namespace

void linear_int8(const Linear &job, const Panels &run, const Worker &worker) { multiply(job, run, worker); }

}  // namespace tiercel::TIERCEL_LEVEL
