// mkfs.pmfs: the command line and its messages.  make.cc makes the volume.
#include <fmt/format.h>
#include <unistd.h>
#include <uuid/uuid.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>

#include "base/printable.h"
#include "base/units.h"
#include "media/geometry.h"
#include "media/verify.h"
#include "mkfs/device.h"
#include "mkfs/image.h"
#include "mkfs/make.h"
#include "mkfs/probe.h"
#include "pm/advice.h"
#include "pm/lending.h"

namespace {

using namespace pmfs;

enum Exit { kMade = 0, kFailed = 1, kUsage = 2 };

struct Words {
    std::string device, uuid, label;
    std::string reserve;
    std::uint64_t size = 0, journal_size = 0, mapping_unit = 0;
    bool force = false, quiet = false, dry_run = false, sparse = false, volatile_only = false;
};

Exit fail(const Words &words, std::string_view sentence) {
    fmt::print(stderr, "mkfs.pmfs: {}: {}\n", printable(words.device), printable(sentence));
    return kFailed;
}

void print_volume(const Words &words, const media::Superblock &sb, const char *medium) {
    char uuid[37];
    uuid_unparse_lower(sb.uuid, uuid);
    const auto *label = reinterpret_cast<const char *>(sb.label);
    const std::uint64_t blocks = sb.block_count.get(), groups = media::group_count(blocks);
    fmt::print("{}: {} pmfs volume of {} on {}\n", printable(words.device),
               words.dry_run ? "would be a" : "a", size_words(blocks * media::kBlockSize), medium);
    fmt::print("  uuid     {}\n", uuid);
    if (label[0] != 0) fmt::print("  label    {}\n", printable({label, ::strnlen(label, 64)}));
    fmt::print("  blocks   {} of 4 KiB in {}\n", blocks, counted(groups, "group"));
    fmt::print("  journal  {}\n", size_words(sb.journal_blocks.get() * media::kBlockSize));
    fmt::print("  mapping  in units of {}\n", size_words(sb.mapping_unit.get()));
    const std::uint32_t reserve = sb.root_reserve.get();
    fmt::print("  reserve  {}.{:02} % for root\n", reserve / 100, reserve % 100);
}

// Existing data is overwritten only with -f, and a medium that a process may store to not even
// then: a process that outlived the server of an older volume would store into the new one.
Result<> refuse_overwrite(const Words &words, pm::Region &region, std::string *found) {
    if (region.mapping_fd() >= 0 && pm::Lender::anybody_has_one(region.mapping_fd()))
        return Error(
            EBUSY,
            "a process still maps the volume that was on it, and may store to it: end that "
            "process first (lslocks shows it); -f does not change that");
    *found = TRY(mkfs::what_is_on(region, words.device));
    if (!found->empty() && !words.force)
        return Error(EEXIST, "it already contains something (-f overwrites it)");
    return {};
}

// Holds the region's lock from probing for existing data until the volume is made.
Result<media::Superblock> make_on(const Words &words, const mkfs::MakeOptions &options,
                                  const char **medium, std::string *found) {
    pm::OpenOptions open;
    open.read_only = words.dry_run;
    open.patient = true;
    const auto region = TRY(pm::open_region(words.device, open));
    *medium = pm::name_of(region->kind());
    TRY(refuse_overwrite(words, *region, found));
    if (words.dry_run) return mkfs::plan(region->size(), region->mapping_unit(), options);
    // Before anything is wiped: checks whether it can be made.
    TRY(mkfs::plan(region->size(), region->mapping_unit(), options));
    if (!found->empty()) TRY(mkfs::wipe_signatures(*region, words.device));
    return mkfs::make(*region, options);
}

// An existing image is opened, and so locked, before its size is touched.
Result<> prepare_existing(const Words &words, const mkfs::ImageState &image, std::string *found) {
    if (!image.regular) {
        if (words.size != 0)
            return Error(EINVAL, "--size is only for image files, and this is a device");
        return {};
    }
    if (words.size != 0 && image.size != 0 && !words.force)
        return Error(EEXIST,
                     "this file already exists (-f overwrites it; without --size it keeps its "
                     "size)");
    if (image.size != 0) {
        pm::OpenOptions open;
        open.read_only = true;
        open.patient = true;
        const auto region = TRY(pm::open_region(words.device, open));
        TRY(refuse_overwrite(words, *region, found));
    }
    if (words.dry_run) return {};
    return mkfs::provide_image(
        words.device, words.size != 0 ? std::optional(words.size) : std::nullopt, words.sparse);
}

Exit run(const Words &words, const mkfs::MakeOptions &options) {
    const auto image = mkfs::look_at(words.device);
    if (!image.ok()) return fail(words, image.error().what());
    const bool exists = image.value().exists;
    // A name such as /dev/dax0.0 never means an image to be created.
    if (const auto advice = pm::advice_for_missing(words.device); !exists && advice)
        return fail(words, advice->what());
    if (!exists && words.size == 0)
        return fail(words, "it does not exist (--size SIZE creates an image file)");
    if (words.volatile_only)
        if (const auto right = mkfs::require_volatile(words.device); !right.ok())
            return fail(words, right.error().what());

    const char *medium = "an image file";
    std::string found;
    Result<media::Superblock> made = Error(EINVAL, "no volume was made");
    const bool new_size = words.size != 0 && image.value().size != words.size;
    if (words.dry_run && new_size) {
        Result<> ready = exists ? prepare_existing(words, image.value(), &found) : Result<>();
        if (!ready.ok()) return fail(words, ready.error().what());
        made = mkfs::plan(words.size, media::kBlockSize, options);
    } else {
        // An impossible size or option is refused before a file is created or changed.
        const std::uint64_t size = words.size != 0 ? words.size : image.value().size;
        if (size != 0)
            if (const auto planned = mkfs::plan(size, media::kBlockSize, options); !planned.ok())
                return fail(words, planned.error().what());
        Result<> ready = exists ? prepare_existing(words, image.value(), &found)
                                : mkfs::provide_image(words.device, words.size, words.sparse);
        made = ready.ok() ? make_on(words, options, &medium, &found)
                          : Result<media::Superblock>(ready.error());
        if (!made.ok() && !exists) ::unlink(words.device.c_str());
    }
    if (!made.ok()) {
        if (!found.empty() && made.error().errno_value() == EEXIST)
            return fail(words, fmt::format("it contains {} (-f overwrites it)", found));
        return fail(words, made.error().what());
    }
    if (!words.dry_run) mkfs::announce(words.device);
    if (!words.quiet) print_volume(words, made.value(), medium);
    return kMade;
}

}  // namespace

int main(int argc, char **argv) {
    Words words;
    CLI::App app{"Make a pmfs volume on persistent memory, a memory file or an image file.",
                 "mkfs.pmfs"};
    app.add_option("device", words.device, "Device-DAX node, memory file or image file")
        ->required();
    const CLI::AsSizeValue size_value(false);
    app.add_option("-s,--size", words.size, "Create an image file of this size (64M, 1G, 1T)")
        ->transform(size_value);
    app.add_option("-L,--label", words.label, "Label of the volume, at most 64 bytes");
    app.add_option("-U,--uuid", words.uuid, "UUID of the volume (default: random)");
    app.add_option("--journal-size", words.journal_size,
                   "Size of the journal (default: 1/256 of the volume, from 256K to 128M)")
        ->transform(size_value);
    app.add_option("--mapping-unit", words.mapping_unit,
                   "Alignment of direct mappings, 4K to 2M (default: the device's page size)")
        ->transform(size_value);
    app.add_option("--reserve", words.reserve,
                   "Percentage of the volume that is reserved for root, 0 to 50 (default: 1)");
    app.add_flag(
        "--sparse", words.sparse,
        "Do not preallocate the image file: if the disk fills up, the volume gets I/O errors");
    app.add_flag("--volatile", words.volatile_only,
                 "Fail if the device is persistent memory (for a service that runs at each boot)");
    app.add_flag("-f,--force", words.force, "Overwrite existing data");
    app.add_flag("-n,--dry-run", words.dry_run, "Only print what would be made");
    app.add_flag("-q,--quiet", words.quiet, "Print only errors");
    mkfs::MakeOptions options;
    app.failure_message([](const CLI::App *, const CLI::Error &error) {
        return printable(error.what()) + "\nRun with --help for more information.\n";
    });
    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError &e) {
        return app.exit(e) == 0 ? kMade : kUsage;  // --help lands here too
    }
    options.label = words.label;
    options.journal_size = words.journal_size;
    options.mapping_unit = words.mapping_unit;
    if (!words.reserve.empty()) {
        const auto reserve = hundredths(words.reserve);
        if (!reserve || *reserve > media::kRootReserveMax) {
            fmt::print(
                stderr,
                "mkfs.pmfs: --reserve {}: must be a percentage from 0 to 50, with at most two "
                "decimals\n",
                printable(words.reserve));
            return kUsage;
        }
        options.root_reserve = *reserve;
    }
    options.root_uid = ::geteuid();
    options.root_gid = ::getegid();
    if (!words.uuid.empty() && uuid_parse(words.uuid.c_str(), options.uuid.emplace().data()) != 0) {
        fmt::print(stderr, "mkfs.pmfs: --uuid {}: not a UUID\n", printable(words.uuid));
        return kUsage;
    }
    return run(words, options);
}
