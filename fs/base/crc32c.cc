// CRC-32C by ISA-L, which picks the fastest code for the CPU at run time.
#include "base/crc32c.h"

#include <isa-l/crc.h>

#include <algorithm>
#include <array>

#include "base/assert.h"

namespace pmfs {

std::uint32_t crc32c(std::uint32_t seed, std::span<const std::byte> bytes) {
    // ISA-L leaves the customary inversions to its caller, counts in int, and does not write
    // through its pointer although it is not const.
    constexpr std::size_t kPieceMax = std::size_t{1} << 30;
    std::uint32_t crc = ~seed;
    while (!bytes.empty()) {
        const std::size_t size = std::min(bytes.size(), kPieceMax);
        auto *data = reinterpret_cast<unsigned char *>(const_cast<std::byte *>(bytes.data()));
        crc = crc32_iscsi(data, static_cast<int>(size), crc);
        bytes = bytes.subspan(size);
    }
    return ~crc;
}

namespace {

constexpr std::size_t kStep = 64;
constexpr std::size_t kSteps = 64;

// A CRC register after `steps` times 64 zero bytes.  That is linear in the register, so a table for
// each of its eight hexadecimal digits gives it: 32 KiB in all, of which the common changes of a
// block touch little.
class Zeroes {
public:
    Zeroes() {
        unsigned char zeroes[kStep] = {};
        std::array<std::uint32_t, 32> bits;
        for (std::size_t bit = 0; bit < bits.size(); ++bit) bits[bit] = std::uint32_t{1} << bit;
        for (Row &row : rows_) {
            for (std::size_t digit = 0; digit < kDigits; ++digit)
                for (std::size_t value = 0; value < 16; ++value)
                    for (std::size_t bit = 0; bit < 4; ++bit)
                        if ((value >> bit & 1) != 0) row[digit][value] ^= bits[digit * 4 + bit];
            for (std::uint32_t &bit : bits) bit = crc32_iscsi(zeroes, kStep, bit);
        }
    }
    std::uint32_t after(std::size_t steps, std::uint32_t crc) const {
        const Row &row = rows_[steps];
        std::uint32_t result = 0;
        for (std::size_t digit = 0; digit < kDigits; ++digit)
            result ^= row[digit][crc >> digit * 4 & 15];
        return result;
    }

private:
    static constexpr std::size_t kDigits = 8;
    using Row = std::array<std::array<std::uint32_t, 16>, kDigits>;
    std::array<Row, kSteps> rows_{};
};

}  // namespace

std::uint32_t crc32c_of_change(std::span<const std::byte, 64> difference, std::size_t behind) {
    static const Zeroes zeroes;
    PMFS_ASSERT(behind % kStep == 0 && behind / kStep < kSteps);
    auto *data = reinterpret_cast<unsigned char *>(const_cast<std::byte *>(difference.data()));
    return zeroes.after(behind / kStep, crc32_iscsi(data, kStep, 0));
}

}  // namespace pmfs
