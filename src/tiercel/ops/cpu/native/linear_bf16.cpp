// Products of bf16 activations and BF16 panels.
//
// The order of arithmetic, for each row and output channel (it is that of TDPBF16PS, so tiles and lanes give the same bits):
// for each group of 32 columns, e = fma(x[2j], w[2j], e) and o = fma(x[2j + 1], w[2j + 1], o) for j = 0 .. 15, both from zero;
// then sum = sum + (e + o). Groups in order, sum from zero.

#include "linear.h"

#include "activations.h"
#ifdef __AMX_BF16__
#include "linear_bf16_tiles.h"
#endif

namespace tiercel::TIERCEL_LEVEL {

#ifdef __AMX_BF16__

void linear_bf16(const Linear &job, const Panels &run, const Worker &worker) {
    if (job.rows <= kFewRows) return linear_of_few_rows(job, run);
    TileProduct(job, run, worker).compute();
}

#else
// By lanes: lane i is output channel i of the panel.

namespace {

constexpr int64_t kGroup = 32;
constexpr int64_t kGroupBytes = 1024;
constexpr int64_t kAhead = 1024;  // bytes from what is read to what is fetched

inline void fetch_group(const uint8_t *weights) {
    for (int64_t line = 0; line < kGroupBytes; line += 64) _mm_prefetch(weights + kAhead + line, _MM_HINT_T0);
}

#ifdef __AVX512F__
constexpr int kRows = 8;  // two chains of each row are held in registers
#else
constexpr int kRows = 2;
#endif
constexpr int64_t kRowsAtOnce = 32;  // rows whose sums stay in the first cache while a panel streams by

// x of rows first .. first + rows - 1 as float32 [groups][rows][32].
void widen(const Bf16Rows &in, int64_t first, int64_t rows, float *out) {
    for (int64_t group = 0; group < in.groups; group++) {
        for (int64_t row = first; row < first + rows; row++, out += kGroup) {
            for (int64_t i = 0; i < kGroup; i += kLanes) store(out + i, load_bf16(in.at(row, group) + i));
        }
    }
}

// Adds one group of columns to the sums of `rows` rows. x: [rows][32].
template <int rows> inline void add_group(const uint8_t *weights, const float *x, F32 *sums) {
    F32 even[rows], odd[rows];
    for (int row = 0; row < rows; row++) even[row] = odd[row] = zero();
#pragma GCC unroll 16
    for (int j = 0; j < 16; j++) {
        const I32 pair = load(reinterpret_cast<const int32_t *>(weights + j * 64));
        const F32 w_even = as_float(shift_left<16>(pair)), w_odd = as_float(pair & all(int32_t(0xffff0000)));
#pragma GCC unroll 8
        for (int row = 0; row < rows; row++) {
            even[row] = fma(all(x[row * kGroup + 2 * j]), w_even, even[row]);
            odd[row] = fma(all(x[row * kGroup + 2 * j + 1]), w_odd, odd[row]);
        }
    }
    for (int row = 0; row < rows; row++) sums[row] = sums[row] + (even[row] + odd[row]);
}

template <int rows = kRows - 1>
inline void add_group_of_last_rows(int64_t count, const uint8_t *weights, const float *x, F32 *sums) {
    if constexpr (rows > 0) {
        if (count == rows) return add_group<rows>(weights, x, sums);
        add_group_of_last_rows<rows - 1>(count, weights, x, sums);
    }
}

}  // namespace

void linear_bf16(const Linear &job, const Panels &run, const Worker &worker) {
    const Bf16Rows rows_x(job.x_bf16, job.rows, run.part.columns);
    const int64_t groups = rows_x.groups;
    const int64_t most = std::min<int64_t>(job.rows, kRowsAtOnce);
    float *x = reinterpret_cast<float *>(worker.scratch(most * groups * kGroup * sizeof(float)));
    for (int64_t first = run.first_row; first < run.last_row; first += kRowsAtOnce) {
        const int64_t rows = std::min(run.last_row - first, kRowsAtOnce);
        widen(rows_x, first, rows, x);
        for (int64_t panel = run.first; panel < run.last; panel++) {
            F32 sums[kRowsAtOnce];
            std::fill_n(sums, rows, zero());
            const uint8_t *weights = run.data(panel);
            const float *group_x = x;
            for (int64_t group = 0; group < groups; group++, weights += kGroupBytes, group_x += rows * kGroup) {
                fetch_group(weights);
                int64_t row = 0;
                for (; row + kRows <= rows; row += kRows) add_group<kRows>(weights, group_x + row * kGroup, sums + row);
                add_group_of_last_rows(rows - row, weights, group_x + row * kGroup, sums + row);
            }
            for (int64_t row = 0; row < rows; row++)
                finish(job, first + row, run.channel_of(panel), run.channels_of(panel), sums[row]);
        }
    }
}

#endif

}  // namespace tiercel::TIERCEL_LEVEL
