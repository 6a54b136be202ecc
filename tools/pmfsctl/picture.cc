// Chunks become cells, cells become coloured characters and a legend.
#include "picture.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <string_view>

#include "base/printable.h"
#include "base/units.h"
#include "words.h"

namespace pmfs::ctl {
namespace {

constexpr unsigned kKinds = 4;  // PMFS_CHUNK_*
constexpr unsigned kMargin = 11;

using Glyphs = std::array<std::string_view, 8>;  // from nearly empty to full
// Kinds differ in shape as well as in colour, so that the picture can be printed.
constexpr std::array<Glyphs, kKinds> kBlocks = {
    Glyphs{"·", "·", "·", "·", "·", "·", "·", "·"}, Glyphs{"░", "░", "░", "▒", "▒", "▒", "▓", "▓"},
    Glyphs{"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"}, Glyphs{"╴", "╴", "─", "─", "╼", "╼", "━", "━"}};
constexpr std::array<Glyphs, kKinds> kPlain = {
    Glyphs{".", ".", ".", ".", ".", ".", ".", "."}, Glyphs{"m", "m", "m", "m", "M", "M", "M", "M"},
    Glyphs{"1", "2", "3", "4", "5", "6", "7", "8"}, Glyphs{"x", "x", "x", "x", "X", "X", "X", "X"}};
constexpr std::array<std::string_view, kKinds> kColors = {"\x1b[90m", "\x1b[33m", "\x1b[36m",
                                                          "\x1b[35m"};
constexpr std::string_view kColorOff = "\x1b[0m";

struct Cell {
    std::uint64_t chunks = 0;
    std::array<std::uint64_t, kKinds> used{};   // blocks
    std::array<std::uint64_t, kKinds> count{};  // chunks
};

unsigned kind_of(const pmfs_chunk &chunk) {
    return chunk.kind < kKinds ? chunk.kind : PMFS_CHUNK_META;
}

void add(Cell &cell, const pmfs_chunk &chunk) {
    cell.chunks++;
    cell.used[kind_of(chunk)] += chunk.used;
    cell.count[kind_of(chunk)]++;
}

// The kind that has most blocks in use; free only if nothing is.
unsigned face(const Cell &cell) {
    unsigned most = PMFS_CHUNK_FREE;
    for (const unsigned kind : {PMFS_CHUNK_META, PMFS_CHUNK_MIXED, PMFS_CHUNK_DATA}) {
        if (cell.count[kind] == 0) continue;
        if (most == PMFS_CHUNK_FREE || cell.used[kind] > cell.used[most]) most = kind;
    }
    return most;
}

class Painter {
public:
    Painter(const PictureStyle &style, std::uint64_t chunk_blocks)
        : style_(style), chunk_blocks_(chunk_blocks) {}

    std::string row(const std::vector<Cell> &cells) const {
        std::string text;
        int current = -1;
        for (const Cell &cell : cells) {
            const unsigned kind = face(cell);
            if (style_.color && static_cast<int>(kind) != current) text += kColors[kind];
            current = static_cast<int>(kind);
            text += glyph(cell, kind);
        }
        if (style_.color) text += kColorOff;
        return text;
    }

    std::string sample(unsigned kind, unsigned level) const {
        const std::string_view glyph = glyphs(kind)[level];
        if (!style_.color) return std::string(glyph);
        return fmt::format("{}{}{}", kColors[kind], glyph, kColorOff);
    }

private:
    const Glyphs &glyphs(unsigned kind) const { return (style_.ascii ? kPlain : kBlocks)[kind]; }

    std::string_view glyph(const Cell &cell, unsigned kind) const {
        const std::uint64_t used =
            cell.used[PMFS_CHUNK_META] + cell.used[PMFS_CHUNK_DATA] + cell.used[PMFS_CHUNK_MIXED];
        const std::uint64_t all = std::max<std::uint64_t>(1, cell.chunks * chunk_blocks_);
        return glyphs(kind)[std::min<std::uint64_t>(7, used * 8 / all)];
    }

    const PictureStyle &style_;
    const std::uint64_t chunk_blocks_;
};

std::string legend(const Painter &painter, const Cell &total, const pmfs_volume &volume,
                   std::uint64_t chunks_per_cell) {
    const auto bytes = [&](unsigned kind) {
        return size_words(total.used[kind] * volume.block_size);
    };
    const std::string mixed =
        total.count[PMFS_CHUNK_MIXED] == 0
            ? ""
            : fmt::format("  {}{}{} both: {} in {} chunks\n", painter.sample(PMFS_CHUNK_MIXED, 0),
                          painter.sample(PMFS_CHUNK_MIXED, 3), painter.sample(PMFS_CHUNK_MIXED, 7),
                          bytes(PMFS_CHUNK_MIXED), total.count[PMFS_CHUNK_MIXED]);
    std::string text = fmt::format(
        "\n  {}{}{} data, by fill: {} in {} chunks\n  {}{}{} metadata: {} in {} chunks\n"
        "{}"
        "  {}   free: {} chunks of {}\n",
        painter.sample(PMFS_CHUNK_DATA, 0), painter.sample(PMFS_CHUNK_DATA, 4),
        painter.sample(PMFS_CHUNK_DATA, 7), bytes(PMFS_CHUNK_DATA), total.count[PMFS_CHUNK_DATA],
        painter.sample(PMFS_CHUNK_META, 0), painter.sample(PMFS_CHUNK_META, 4),
        painter.sample(PMFS_CHUNK_META, 7), bytes(PMFS_CHUNK_META), total.count[PMFS_CHUNK_META],
        mixed, painter.sample(PMFS_CHUNK_FREE, 0), total.count[PMFS_CHUNK_FREE],
        size_words(volume.chunk_size));
    if (chunks_per_cell > 1)
        text +=
            fmt::format("  one character is {}\n", size_words(chunks_per_cell * volume.chunk_size));
    return text;
}

}  // namespace

std::string draw(const pmfs_volume &volume, const std::vector<pmfs_chunk> &chunks,
                 const PictureStyle &style) {
    // A power of two, so that rows begin at round offsets.
    const std::uint64_t columns =
        std::bit_floor(std::max(16u, style.width - std::min(style.width, kMargin + 1)));
    const std::uint64_t room = columns * std::max(1u, style.rows_max);
    const std::uint64_t per_cell = std::max<std::uint64_t>(1, (chunks.size() + room - 1) / room);
    const std::uint64_t chunk_size = std::max<std::uint64_t>(1, volume.chunk_size);
    const std::uint64_t block_size = std::max<std::uint32_t>(1, volume.block_size);
    const Painter painter(style, chunk_size / block_size);

    std::string text =
        fmt::format("{} on {}, {}{}\n\n", size_words(volume.size), printable(volume.source),
                    medium_text(volume.medium),
                    volume.label[0] != 0 ? fmt::format(", \"{}\"", printable(volume.label)) : "");
    Cell total;
    std::vector<Cell> row;
    std::uint64_t row_start = 0;
    for (std::uint64_t at = 0; at < chunks.size(); at += per_cell) {
        Cell cell;
        for (std::uint64_t i = at; i < std::min<std::uint64_t>(at + per_cell, chunks.size()); i++) {
            add(cell, chunks[i]);
            add(total, chunks[i]);
        }
        row.push_back(cell);
        if (row.size() == columns || at + per_cell >= chunks.size()) {
            const std::string offset = row_start == 0 ? "0" : size_words(row_start * chunk_size);
            text += fmt::format("{:>{}} {}\n", offset, kMargin - 1, painter.row(row));
            row.clear();
            row_start = at + per_cell;
        }
    }
    return text + legend(painter, total, volume, per_cell);
}

}  // namespace pmfs::ctl
