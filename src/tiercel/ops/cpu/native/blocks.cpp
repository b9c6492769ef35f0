// Copies of blocks of keys and values between arenas and buffers, as they are or from one format into another (kv_formats.h).
//
// Blocks of one format are copied in long pieces, past the caches where they are many: what is moved between tiers is not read
// again soon. Other rows go through float32: read as attention reads them, rotated if one of both formats is and the other is
// not, and encoded as kv_write encodes them.

#include <algorithm>
#include <cstring>

#include "hadamard.h"
#include "kv_formats.h"
#include "pool.h"

namespace tiercel {
namespace {

using namespace avx2;

constexpr int64_t kPieceBytes = 128 << 10;    // what a thread claims at a time
constexpr int64_t kStreamedBytes = 16 << 20;  // of copies that go past the caches
constexpr int64_t kSegmentsAtOnce = 4;

// The shape of a segment, and where its rows lie.
class Segments {
  public:
    explicit Segments(const tiercel_blocks &blocks) : blocks_(blocks), row_(values_of(blocks), scales_of(blocks)) {}

    int64_t bytes() const { return blocks_.block_tokens * (row_.values + row_.scales); }
    uint8_t *at(int64_t number, int64_t segment) const {
        const int64_t block = blocks_.ids ? blocks_.ids[number] : number;
        return blocks_.data + block * blocks_.block_bytes + segment * bytes();
    }
    uint8_t *values(uint8_t *segment, int64_t token) const { return segment + token * row_.values; }
    uint8_t *scales(uint8_t *segment, int64_t token) const {
        return segment + blocks_.block_tokens * row_.values + token * row_.scales;
    }

  private:
    struct Row {
        int64_t values, scales;  // bytes
        Row(int64_t v, int64_t s) : values(v), scales(s) {}
    };
    static int64_t values_of(const tiercel_blocks &blocks) {
        switch (blocks.kv_format) {
            case TIERCEL_KV_FLOAT32: return blocks.head_dim * 4;
            case TIERCEL_KV_INT8: return blocks.head_dim;
            case TIERCEL_KV_INT4: return blocks.head_dim / 2;
            default: return blocks.head_dim * 2;
        }
    }
    static int64_t scales_of(const tiercel_blocks &blocks) {
        return blocks.kv_format == TIERCEL_KV_INT8   ? int64_t(sizeof(float))
               : blocks.kv_format == TIERCEL_KV_INT4 ? blocks.head_dim / kRun * int64_t(sizeof(uint16_t))
                                                     : 0;
    }

    const tiercel_blocks &blocks_;
    Row row_;
};

struct Copy {
    const tiercel_blocks &from, &to;
    int64_t count, first, last;  // blocks; segments of each
    bool same;                   // formats
    Counter counter;
};

// Past the caches; `to` is a multiple of 32 bytes.
void stream(uint8_t *to, const uint8_t *from, int64_t bytes) {
    const int64_t whole = bytes / 64 * 64;
    for (int64_t i = 0; i < whole; i += 64) {
        const __m256i low = load_half(from + i), high = load_half(from + i + 32);
        _mm256_stream_si256(reinterpret_cast<__m256i *>(to + i), low);
        _mm256_stream_si256(reinterpret_cast<__m256i *>(to + i + 32), high);
    }
    std::memcpy(to + whole, from + whole, bytes - whole);
}

void copy_pieces(const Copy &copy, const Worker &worker) {
    const Segments from(copy.from), to(copy.to);
    const int64_t bytes = (copy.last - copy.first) * from.bytes(), pieces = (bytes + kPieceBytes - 1) / kPieceBytes;
    const bool streams = copy.count * bytes >= kStreamedBytes;
    for (int64_t unit = worker.claim(); unit < copy.count * pieces; unit = worker.claim()) {
        const int64_t number = unit / pieces, start = unit % pieces * kPieceBytes;
        const uint8_t *source = from.at(number, copy.first) + start;
        uint8_t *target = to.at(number, copy.first) + start;
        const int64_t length = std::min(kPieceBytes, bytes - start);
        if (streams && reinterpret_cast<uintptr_t>(target) % 32 == 0) stream(target, source, length);
        else std::memcpy(target, source, length);
    }
    _mm_sfence();
}

void read_row(const tiercel_blocks &blocks, const uint8_t *values, const uint8_t *scales, float *row) {
    const int64_t size = blocks.head_dim;
    if (blocks.kv_format == TIERCEL_KV_FLOAT32) {
        std::memcpy(row, values, size * sizeof(float));
        return;
    }
    uint16_t rounded[kMaxHeadDim];
    const auto *bf16 = reinterpret_cast<const uint16_t *>(values);
    if (blocks.kv_format == TIERCEL_KV_INT8) decode_int8(values, scales, size, 1, rounded), bf16 = rounded;
    if (blocks.kv_format == TIERCEL_KV_INT4) decode_int4(values, scales, size, 1, rounded), bf16 = rounded;
    for (int64_t i = 0; i < size; i += kLanes) store(row + i, load_bf16(bf16 + i));
}

void write_row(const tiercel_blocks &blocks, const float *row, uint8_t *values, uint8_t *scales) {
    const int64_t size = blocks.head_dim;
    switch (blocks.kv_format) {
        case TIERCEL_KV_FLOAT32: std::memcpy(values, row, size * sizeof(float)); break;
        case TIERCEL_KV_INT8: encode_int8(row, size, values, scales); break;
        case TIERCEL_KV_INT4:
            for (int64_t i = 0; i < size; i += kRun) encode_int4_run(row + i, values + i / 2, scales + i / kRun * 2);
            break;
        default:
            for (int64_t i = 0; i < size; i += kLanes) store_bf16(reinterpret_cast<uint16_t *>(values) + i, load(row + i));
    }
}

void convert(const Copy &copy, const Worker &worker) {
    const Segments from(copy.from), to(copy.to);
    const int64_t parts = (copy.last - copy.first + kSegmentsAtOnce - 1) / kSegmentsAtOnce;
    alignas(64) float row[kMaxHeadDim];
    for (int64_t unit = worker.claim(); unit < copy.count * parts; unit = worker.claim()) {
        const int64_t number = unit / parts, first = copy.first + unit % parts * kSegmentsAtOnce;
        for (int64_t segment = first; segment < std::min(first + kSegmentsAtOnce, copy.last); segment++) {
            uint8_t *source = from.at(number, segment), *target = to.at(number, segment);
            for (int64_t token = 0; token < copy.from.block_tokens; token++) {
                read_row(copy.from, from.values(source, token), from.scales(source, token), row);
                if (copy.from.rotated != copy.to.rotated) rotate_row(row, copy.from.head_dim);
                write_row(copy.to, row, to.values(target, token), to.scales(target, token));
            }
        }
    }
}

void work(void *context, const Worker &thread) {
    Copy &copy = *static_cast<Copy *>(context);
    Worker worker = thread;
    worker.counter = &copy.counter.next;
    copy.same ? copy_pieces(copy, worker) : convert(copy, worker);
}

}  // namespace
}  // namespace tiercel

extern "C" int32_t tiercel_copy_blocks(tiercel_pool *pool, const tiercel_blocks *from, const tiercel_blocks *to, int64_t count,
                                       int32_t first_segment, int32_t last_segment) {
    const bool same = from->kv_format == to->kv_format && from->rotated == to->rotated;
    const bool alike = from->block_tokens == to->block_tokens && from->head_dim == to->head_dim;
    if (!alike || (!same && (from->head_dim % tiercel::avx2::kRun || from->head_dim > tiercel::avx2::kMaxHeadDim))) return -1;
    tiercel::Copy copy{*from, *to, count, first_segment, last_segment, same, {}};
    pool->team.run(tiercel::work, &copy);
    return 0;
}
