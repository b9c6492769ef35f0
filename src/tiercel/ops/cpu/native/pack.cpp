// Packs weights into panels (packing.h). Threads claim panels; a panel's group is filled row by row while it is in the
// first-level cache. I8 wants whole rows, which go by way of float32.

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>

#include "pack.h"
#include "pool.h"
#include "quantise_row.h"
#include "unpack.h"

namespace tiercel {
namespace {

// Four values of one row, the unit in which a panel's rows alternate.
constexpr int64_t kQuad = 4, kQuadBytes = kQuad * kPanelRows;
constexpr int64_t kNibbleBytes = 4 * kQuadBytes, kTwoBitBytes = 2 * kQuadBytes;

uint32_t word_at(const uint8_t *p) {
    uint32_t word;
    std::memcpy(&word, p, sizeof word);
    return word;
}
void put_word(uint8_t *p, uint32_t word) { std::memcpy(p, &word, sizeof word); }
uint16_t half_at(const uint8_t *p) {
    uint16_t half;
    std::memcpy(&half, p, sizeof half);
    return half;
}
void put_half(uint8_t *p, uint16_t half) { std::memcpy(p, &half, sizeof half); }

// Where one row's run of 32 columns, or of 256 in a K-quant, lies in its panel. Null: the format has no such part.
struct Place {
    uint8_t *scale = nullptr, *minimum = nullptr;  // fp16
    uint8_t *scales = nullptr;                     // K-quants: [8][2][16 rows]
    uint8_t *bytes = nullptr;                      // quads of whole bytes
    uint8_t *nibbles = nullptr, *fifth = nullptr, *two_bits = nullptr;
    int64_t stride = 0;                            // K-quants: from one run of 32 columns to the next
};

Place place(int32_t format, uint8_t *panel, int64_t run, int64_t row) {
    const GroupShape shape = group_shape(format);
    const bool paired = shape.columns == 64;
    uint8_t *group = panel + (paired ? run / 2 : run) * shape.bytes;
    const int64_t which = paired ? run % 2 : 0, quad = kQuad * row;
    Place at;
    at.scale = group + 32 * which + 2 * row;
    uint8_t *body = group + 64;
    switch (format) {
        case TIERCEL_Q8_0: at.bytes = body + 8 * kQuadBytes * which + quad; break;
        case TIERCEL_Q4_0: at.nibbles = body + kNibbleBytes * which + quad; break;
        case TIERCEL_Q4_1:
            at.minimum = at.scale + 32;
            at.nibbles = body + quad;
            break;
        case TIERCEL_Q5_0:
            at.nibbles = body + (kNibbleBytes + kQuadBytes) * which + quad;
            at.fifth = at.nibbles + kNibbleBytes;
            break;
        case TIERCEL_Q4_K:
            at.minimum = at.scale + 32;
            at.scales = body + row;
            at.nibbles = body + 256 + quad;
            at.stride = kNibbleBytes;
            break;
        default:
            at.scales = body + row;
            at.nibbles = body + 256 + quad;
            at.two_bits = at.nibbles + kNibbleBytes;
            at.stride = kNibbleBytes + kTwoBitBytes;
    }
    return at;
}

void put(int32_t format, const Place &at, const Quants &quants) {
    put_half(at.scale, quants.scale);
    if (at.minimum) put_half(at.minimum, quants.minimum);
    for (int run = 0; at.scales && run < 8; run++) {
        const bool minima = format == TIERCEL_Q4_K;
        at.scales[32 * run] = minima ? quants.scales[run] : quants.scales[2 * run];
        at.scales[32 * run + 16] = minima ? quants.minima[run] : quants.scales[2 * run + 1];
    }
    for (int run = 0; run < (at.scales ? 8 : 1); run++) {
        const uint8_t *values = quants.values + 32 * run;
        for (int j = 0; at.bytes && j < 8; j++) put_word(at.bytes + kQuadBytes * j, word_at(values + kQuad * j));
        uint8_t *nibbles = at.nibbles + at.stride * run;
        for (int j = 0; at.nibbles && j < 4; j++) {
            uint32_t low = word_at(values + kQuad * j) & 0x0f0f0f0f, high = word_at(values + 16 + kQuad * j) & 0x0f0f0f0f;
            put_word(nibbles + kQuadBytes * j, low | high << 4);
        }
        if (at.fifth) {
            uint32_t bits = 0;
            for (int j = 0; j < 8; j++) bits |= (word_at(values + kQuad * j) >> 4 & 0x01010101) << j;
            put_word(at.fifth, bits);
        }
        for (int j = 0; at.two_bits && j < 2; j++) {
            uint32_t bits = 0;
            for (int k = 0; k < 4; k++) bits |= (word_at(values + 8 * k + kQuad * j) >> 4 & 0x03030303) << 2 * k;
            put_word(at.two_bits + at.stride * run + kQuadBytes * j, bits);
        }
    }
}

// Up to 32 values that stand alone in a file, filled up with zeros.
void read_values(int32_t format, const uint8_t *source, int64_t count, float *out) {
    for (int64_t i = 0; i < 32; i++) out[i] = 0.0f;
    if (format == TIERCEL_F32) {
        std::memcpy(out, source, count * sizeof(float));
    } else if (format == TIERCEL_F16) {
        for (int64_t i = 0; i < count; i++) out[i] = from_half(half_at(source + 2 * i));
    } else {
        for (int64_t i = 0; i < count; i++) out[i] = std::bit_cast<float>(uint32_t(half_at(source + 2 * i)) << 16);
    }
}

uint16_t to_bf16(float value) {
    const uint32_t bits = std::bit_cast<uint32_t>(value);
    if ((bits & 0x7fffffff) > 0x7f800000) return bits >> 16 | 0x40;  // NaN
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

void put_bf16(uint8_t *panel, int64_t run, int64_t row, const uint16_t *values) {
    uint8_t *at = panel + group_shape(TIERCEL_BF16).bytes * run + kQuad * row;
    for (int pair = 0; pair < 16; pair++) std::memcpy(at + kQuadBytes * pair, values + 2 * pair, kQuad);
}

struct Packing {
    int32_t source_format, format;
    const uint8_t *source;
    int64_t rows, columns;
    uint8_t *packed;
    std::atomic<int64_t> next{0};

    int64_t source_row_bytes() const {
        const GroupShape shape = block_shape(source_format);
        return columns / shape.columns * shape.bytes;
    }
};

// One run of columns of one row: as many as a block of the source has, at least 32.
void pack_run(const Packing &job, const uint8_t *row_bytes, int64_t column, uint8_t *panel, int64_t row) {
    const GroupShape shape = block_shape(job.source_format);
    const bool alone = shape.columns == 1;
    const int64_t run = column / 32, count = job.columns - column < 32 ? job.columns - column : 32;
    const uint8_t *source = row_bytes + column / shape.columns * shape.bytes;
    if (job.source_format == TIERCEL_BF16 && job.format == TIERCEL_BF16) {  // not by way of float32: NaNs keep their bits
        uint16_t values[32] = {};
        std::memcpy(values, source, count * sizeof(uint16_t));
        return put_bf16(panel, run, row, values);
    }
    Quants quants;
    if (!alone) read_block(job.source_format, source, quants);
    if (job.source_format == job.format) {
        return put(job.format, place(job.format, panel, column / shape.columns, row), quants);
    }
    float values[256];
    if (alone) read_values(job.source_format, source, count, values);
    else dequantise(job.source_format, quants, values);
    for (int64_t i = 0; i < (alone ? 32 : shape.columns); i += 32) {
        if (job.format == TIERCEL_BF16) {
            uint16_t rounded[32];
            for (int j = 0; j < 32; j++) rounded[j] = to_bf16(values[i + j]);
            put_bf16(panel, run + i / 32, row, rounded);
        } else {
            quantise(job.format, values + i, quants);
            put(job.format, place(job.format, panel, run + i / 32, row), quants);
        }
    }
}

// A row as float32. out: [columns, filled up to a multiple of 64]
void read_row(const Packing &job, const uint8_t *source, float *out) {
    const GroupShape shape = block_shape(job.source_format);
    for (int64_t at = 0; shape.columns == 1 && at < job.columns; at += 32)
        read_values(job.source_format, source + at * shape.bytes, std::min<int64_t>(32, job.columns - at), out + at);
    for (int64_t at = 0; shape.columns > 1 && at < job.columns; at += shape.columns, source += shape.bytes) {
        Quants quants;
        read_block(job.source_format, source, quants);
        dequantise(job.source_format, quants, out + at);
    }
}

void pack_i8_panel(const Packing &job, int64_t panel, float *values) {
    using namespace TIERCEL_LEVEL;
    const int64_t bytes = panel_bytes(TIERCEL_I8, job.columns), row_bytes = job.source_row_bytes();
    const int64_t first = panel * kPanelRows, rows = std::min<int64_t>(job.rows - first, kPanelRows);
    uint8_t *out = job.packed + panel * bytes, *scales = out + bytes - kPanelScaleBytes;
    if (rows < kPanelRows) std::memset(out, 0, bytes);
    for (int64_t row = 0; row < rows; row++) {
        read_row(job, job.source + (first + row) * row_bytes, values);
        const float scale = quantise_row(values, job.columns, [&](int64_t column, I32 integers) {
            alignas(16) int8_t lanes[kLanes];
            store_s8(lanes, integers);
            for (int64_t i = 0; i < kLanes; i += kQuad)
                std::memcpy(out + (column + i) * kPanelRows + kQuad * row, lanes + i, kQuad);
        });
        std::memcpy(scales + row * sizeof scale, &scale, sizeof scale);
    }
}

void pack_panel(const Packing &job, int64_t panel) {
    const int64_t bytes = panel_bytes(job.format, job.columns), row_bytes = job.source_row_bytes();
    const int64_t first = panel * kPanelRows, rows = job.rows - first < kPanelRows ? job.rows - first : kPanelRows;
    const int64_t step = block_shape(job.source_format).columns == 256 ? 256 : 32;
    uint8_t *out = job.packed + panel * bytes;
    // Rows and columns that only fill up a panel count as zero; so do the bytes that nothing reads.
    const bool whole = rows == kPanelRows && job.columns % group_shape(job.format).columns == 0;
    if (!whole || job.format == TIERCEL_Q6_K) std::memset(out, 0, bytes);
    for (int64_t column = 0; column < job.columns; column += step) {
        for (int64_t row = 0; row < rows; row++) pack_run(job, job.source + (first + row) * row_bytes, column, out, row);
    }
}

void pack_panels(void *context, const Worker &worker) {
    Packing &job = *static_cast<Packing *>(context);
    const int64_t count = panels(job.rows);
    float *values = nullptr;
    if (job.format == TIERCEL_I8) {
        values = reinterpret_cast<float *>(worker.scratch(TIERCEL_LEVEL::padded_row(job.columns) * int64_t(sizeof(float))));
    }
    for (int64_t panel; (panel = job.next.fetch_add(1, std::memory_order_relaxed)) < count;) {
        values ? pack_i8_panel(job, panel, values) : pack_panel(job, panel);
    }
}

}  // namespace
}  // namespace tiercel

using namespace tiercel;

extern "C" int64_t tiercel_packed_bytes(int32_t format, int32_t rows, int32_t columns) {
    const GroupShape shape = group_shape(format);
    if (rows < 1 || columns < 1 || shape.columns == 0 || (shape.columns == 256 && columns % 256)) return -1;
    return panels(rows) * panel_bytes(format, columns);
}

extern "C" int32_t tiercel_pack(tiercel_pool *pool, int32_t source_format, const uint8_t *source, int32_t format, int32_t rows,
                                int32_t columns, uint8_t *packed) {
    const GroupShape shape = block_shape(source_format);
    if (tiercel_packed_bytes(format, rows, columns) < 0 || shape.columns == 0 || columns % shape.columns) return -1;
    const bool makes = format == TIERCEL_BF16 || format == TIERCEL_I8 || can_quantise(format);
    if (source_format != format && !makes) return -1;
    Packing job{source_format, format, source, rows, columns, packed};
    pool->team.run(pack_panels, &job);
    return 0;
}

extern "C" void tiercel_unpack(const tiercel_matrix *matrix, const int32_t *ids, int32_t num_ids, float *out) {
    for (int32_t i = 0; i < num_ids; i++) unpack_row(*matrix, ids[i], out + int64_t{i} * matrix->columns);
}
