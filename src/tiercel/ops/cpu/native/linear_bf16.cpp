// Products of bf16 activations and BF16 panels.
//
// The order of arithmetic, for each row and output channel (it is that of TDPBF16PS, so tiles and lanes give the same bits):
// for each group of 32 columns, e = fma(x[2j], w[2j], e) and o = fma(x[2j + 1], w[2j + 1], o) for j = 0 .. 15, both from zero;
// then sum = sum + (e + o). Groups in order, sum from zero.

#include "linear.h"

#include <cstring>

#include "activations.h"
#ifdef __AMX_BF16__
#include "tile.h"
#endif

namespace tiercel::TIERCEL_LEVEL {
namespace {

constexpr int64_t kGroup = 32;
constexpr int64_t kGroupBytes = 1024;
constexpr int64_t kAhead = 1024;  // bytes from what is read to what is fetched; 4096 and 8192 are slower

inline void fetch_group(const uint8_t *weights) {
    for (int64_t line = 0; line < kGroupBytes; line += 64) _mm_prefetch(weights + kAhead + line, _MM_HINT_T0);
}

#ifndef __AMX_BF16__
// By lanes: lane i is output channel i of the panel.

#ifdef __AVX512F__
constexpr int kRows = 8;  // two chains of each row are held in registers
#else
constexpr int kRows = 2;
#endif
constexpr int64_t kRowsAtOnce = 32;  // rows whose sums stay in the first cache while a panel streams by

// x of some rows as float32 [groups][rows][32].
void widen(const Linear &job, int64_t first, int64_t rows, int64_t groups, float *x) {
    for (int64_t row = 0; row < rows; row++) {
        const uint16_t *in = job.x_bf16 + (first + row) * job.stride_bf16;
        for (int64_t group = 0; group < groups; group++) {
            float *out = x + (group * rows + row) * kGroup;
            for (int64_t i = 0; i < kGroup; i += kLanes) store(out + i, load_bf16(in + group * kGroup + i));
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

void linear_by_lanes(const Linear &job, const Panels &run, const Worker &worker) {
    const int64_t groups = padded_channels(run.part.columns) / kGroup;
    const int64_t most = std::min<int64_t>(job.rows, kRowsAtOnce);
    float *x = reinterpret_cast<float *>(worker.scratch(most * groups * kGroup * sizeof(float)));
    for (int64_t first = 0; first < job.rows; first += kRowsAtOnce) {
        const int64_t rows = std::min(job.rows - first, kRowsAtOnce);
        widen(job, first, rows, groups, x);
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

#else
// By tiles of up to 16 rows, also for one row: a product of so few rows waits for memory all the same.
//
// Few rows and very many go by strips. With tens of rows it is x that costs time: its tiles come from the second-level cache
// through the buffers of the first that weights from memory need, too. So x then goes by chunks of a few groups, which stay in
// the first cache while the chunk's weights of all panels pass; in between, the sums wait in memory.

// The sums of up to 32 rows and two panels over all groups, in tiles 0 .. 3 as [row block][panel]. Tiles 4, 5: x of the row
// blocks; 6, 7: weights of the panels.
template <int row_blocks, int num_panels>
void add_up(const uint16_t *x, int64_t stride, const uint8_t *weights, int64_t panel_bytes, int64_t groups) {
    tile_zero<0>(), tile_zero<1>(), tile_zero<2>(), tile_zero<3>();
    for (int64_t group = 0; group < groups; group++, x += kGroup, weights += kGroupBytes) {
        fetch_group(weights);
        tile_load<6>(weights, 64);
        tile_load<4>(x, stride * 2);
        tile_multiply_bf16<0, 4, 6>();
        if constexpr (num_panels == 2) {
            fetch_group(weights + panel_bytes);
            tile_load<7>(weights + panel_bytes, 64);
            tile_multiply_bf16<1, 4, 7>();
        }
        if constexpr (row_blocks == 2) {
            tile_load<5>(x + 16 * stride, stride * 2);
            tile_multiply_bf16<2, 5, 6>();
            if constexpr (num_panels == 2) tile_multiply_bf16<3, 5, 7>();
        }
    }
}

// Fetches where the sums of some rows and a pair of panels go, so that storing them does not wait.
void fetch_results(const Linear &job, int64_t row, int64_t rows, int64_t channel) {
    for (const float *out = job.out + row * job.stride + channel; rows > 0; rows--, out += job.stride) {
        _mm_prefetch(out, _MM_HINT_T0);
        _mm_prefetch(out + kLanes, _MM_HINT_T0);
    }
}

// Strips of 32 rows, each times all panels of the run: the strip after the first finds the panels in the second-level cache.
void linear_by_strips(const Linear &job, const Panels &run) {
    const int64_t groups = padded_channels(run.part.columns) / kGroup, panel_bytes = groups * kGroupBytes;
    const int64_t stride = job.stride_bf16;
    for (int64_t row = 0; row < job.rows; row += 32) {
        const int64_t rows = std::min<int64_t>(32, job.rows - row);
        const uint8_t above = uint8_t(std::min<int64_t>(16, rows)), below = uint8_t(std::max<int64_t>(1, rows - 16));
        const Tiles tiles({above, above, below, below, above, below, 16, 16});
        const uint16_t *x = job.x_bf16 + row * stride;
        for (int64_t panel = run.first; panel < run.last; panel += 2) {
            const uint8_t *weights = run.data(panel);
            const bool two = panel + 1 < run.last;
            fetch_results(job, row, rows, run.channel_of(panel));
            const auto add = rows > 16 ? (two ? add_up<2, 2> : add_up<2, 1>) : (two ? add_up<1, 2> : add_up<1, 1>);
            add(x, stride, weights, panel_bytes, groups);
            alignas(64) float sums[2][32][kLanes];  // [panel][row]
            tile_store<0>(sums[0], 64), tile_store<2>(sums[0] + 16, 64);
            tile_store<1>(sums[1], 64), tile_store<3>(sums[1] + 16, 64);
            for (int64_t i = 0; i < rows; i++) {
                for (int p = 0; p < 1 + two; p++)
                    finish(job, row + i, run.channel_of(panel + p), run.channels_of(panel + p), load(sums[p][i]));
            }
        }
    }
}

constexpr int64_t kChunk = 4;           // groups; 3 and 5 are no faster, 7 and more slower
constexpr int64_t kChunkedRows = 64;    // from more than kFewRows up to so many, rows go by chunks
constexpr int64_t kStripRows = 32;      // what the tiles hold at a time: [2 blocks of 16 rows][2 panels]
constexpr int64_t kTile = 16 * kLanes;  // sums of a tile
constexpr int64_t kPairSums = kChunkedRows / kStripRows * 4 * kTile, kPairs = 32;  // whose sums may wait

// What lies in scratch memory: x as [blocks of 16 rows][groups][rows][32], tile after tile, and sums. Rows that the last block
// lacks hold anything; so do their sums, which nobody reads.
struct Scratch {
    int64_t rows, groups, tile_bytes, block_bytes;
    uint8_t *x;
    float *sums;  // [pairs][strips][2 blocks][2 panels][16 rows][16]

    Scratch(const Linear &job, const Worker &worker) {
        rows = std::min(job.rows, 16);
        groups = padded_channels(job.parts->columns) / kGroup;
        tile_bytes = rows * kGroup * 2, block_bytes = groups * tile_bytes;
        const int64_t sums_bytes = kPairs * kPairSums * sizeof(float);
        uint8_t *memory = worker.scratch(sums_bytes + (job.rows + 15) / 16 * block_bytes);
        sums = reinterpret_cast<float *>(memory), x = memory + sums_bytes;
    }
};

void to_tiles(const Linear &job, const Scratch &scratch) {
    for (int64_t row = 0; row < job.rows; row++) {
        const uint16_t *in = job.x_bf16 + row * job.stride_bf16;
        uint8_t *out = scratch.x + row / 16 * scratch.block_bytes + row % 16 * kGroup * 2;
        for (int64_t group = 0; group < scratch.groups; group++, in += kGroup, out += scratch.tile_bytes)
            std::memcpy(out, in, kGroup * 2);
    }
}

// A chunk of a strip of up to 32 rows and a pair of panels.
struct Chunk {
    const uint8_t *x;
    int64_t tile_bytes, block_bytes;
    const uint8_t *weights;
    int64_t panel_bytes, groups;
    float *sums;
    bool first;            // the sums start from zero
    const uint8_t *fetch;  // weights to be read later
    int64_t fetch_bytes;   // of them per group
};

// Tiles 0 .. 3: sums as [row block][panel]; 4, 5: x of the row blocks; 6, 7: weights of the panels.
template <int row_blocks, int num_panels> void add_chunk(const Chunk &at) {
    if (at.first) {
        tile_zero<0>(), tile_zero<1>(), tile_zero<2>(), tile_zero<3>();
    } else {
        tile_load<0>(at.sums, 64), tile_load<1>(at.sums + kTile, 64);
        if constexpr (row_blocks == 2) tile_load<2>(at.sums + 2 * kTile, 64), tile_load<3>(at.sums + 3 * kTile, 64);
    }
    const uint8_t *x = at.x, *weights = at.weights, *fetch = at.fetch;
    for (int64_t group = 0; group < at.groups; group++) {
        for (int64_t line = 0; line < at.fetch_bytes; line += 64) _mm_prefetch(fetch + line, _MM_HINT_T0);
        tile_load<6>(weights, 64);
        tile_load<4>(x, 64);
        tile_multiply_bf16<0, 4, 6>();
        if constexpr (row_blocks == 2) {
            tile_load<5>(x + at.block_bytes, 64);
            tile_multiply_bf16<2, 5, 6>();
        }
        if constexpr (num_panels == 2) {
            for (int64_t line = 0; line < at.fetch_bytes; line += 64)
                _mm_prefetch(fetch + at.panel_bytes + line, _MM_HINT_T0);
            tile_load<7>(weights + at.panel_bytes, 64);
            tile_multiply_bf16<1, 4, 7>();
            if constexpr (row_blocks == 2) tile_multiply_bf16<3, 5, 7>();
        }
        x += at.tile_bytes, weights += kGroupBytes, fetch += at.fetch_bytes;
    }
    tile_store<0>(at.sums, 64), tile_store<1>(at.sums + kTile, 64);
    if constexpr (row_blocks == 2) tile_store<2>(at.sums + 2 * kTile, 64), tile_store<3>(at.sums + 3 * kTile, 64);
}

// At most kPairs pairs of panels.
void linear_by_chunks(const Linear &job, const Panels &run, const Scratch &scratch, int64_t first_panel, int64_t last_panel) {
    const int64_t strips = (job.rows + kStripRows - 1) / kStripRows;
    const int64_t fetch_bytes = kGroupBytes / strips;  // each strip fetches its part
    const int64_t panel_bytes = scratch.groups * kGroupBytes;
    for (int64_t first = 0; first < scratch.groups; first += kChunk) {
        const int64_t groups = std::min(kChunk, scratch.groups - first);
        float *sums = scratch.sums;
        for (int64_t panel = first_panel; panel < last_panel; panel += 2, sums += kPairSums) {
            const bool two = panel + 1 < last_panel, more = panel + 2 < last_panel;
            const uint8_t *weights = run.data(panel) + first * kGroupBytes;
            const uint8_t *fetch = more ? weights + 2 * panel_bytes : run.data(first_panel) + (first + kChunk) * kGroupBytes;
            for (int64_t strip = 0; strip < strips; strip++, fetch += groups * fetch_bytes) {
                const uint8_t *x = scratch.x + 2 * strip * scratch.block_bytes + first * scratch.tile_bytes;
                const Chunk at{x, scratch.tile_bytes, scratch.block_bytes, weights, panel_bytes, groups,
                               sums + strip * 4 * kTile, first == 0, fetch, fetch_bytes};
                if (job.rows - strip * kStripRows > 16) two ? add_chunk<2, 2>(at) : add_chunk<2, 1>(at);
                else two ? add_chunk<1, 2>(at) : add_chunk<1, 1>(at);
            }
        }
    }
    for (int64_t panel = first_panel; panel < last_panel; panel++) {
        const float *sums = scratch.sums + (panel - first_panel) / 2 * kPairSums + (panel - first_panel) % 2 * kTile;
        for (int64_t row = 0; row < job.rows; row++) {
            const F32 sum = load(sums + row / 16 * 2 * kTile + row % 16 * kLanes);
            finish(job, row, run.channel_of(panel), run.channels_of(panel), sum);
        }
    }
}

bool chunked(const Linear &job) { return job.rows > kFewRows && job.rows <= kChunkedRows; }

#endif

}  // namespace

#ifdef __AMX_BF16__

void prepare_bf16(const Linear &job, const Worker &worker) {
    if (chunked(job)) to_tiles(job, Scratch(job, worker));
}

void linear_bf16(const Linear &job, const Panels &run, const Worker &worker) {
    if (!chunked(job)) return linear_by_strips(job, run);
    const Scratch scratch(job, worker);
    const uint8_t rows = uint8_t(scratch.rows);
    const Tiles tiles({rows, rows, rows, rows, rows, rows, 16, 16});
    for (int64_t panel = run.first; panel < run.last; panel += 2 * kPairs)
        linear_by_chunks(job, run, scratch, panel, std::min(panel + 2 * kPairs, run.last));
}

#else

void prepare_bf16(const Linear &, const Worker &) {}  // each run widens x for itself
void linear_bf16(const Linear &job, const Panels &run, const Worker &worker) { linear_by_lanes(job, run, worker); }

#endif

}  // namespace tiercel::TIERCEL_LEVEL
