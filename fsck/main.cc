// fsck.pmfs: the command line and its messages.  check.cc checks, repair.cc repairs.
#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include "base/printable.h"
#include "base/units.h"
#include "fsck/check.h"
#include "fsck/print.h"
#include "fsck/repair.h"
#include "pm/region.h"
#include "probe/identity.h"

namespace {

using namespace pmfs;

// The bits that fsck(8) gives its exit status, so that boot scripts understand us.  Replaying a
// journal corrects nothing.
enum Exit { kClean = 0, kCorrected = 1, kLeftBroken = 4, kFailed = 8, kUsage = 16 };

struct Words {
    std::string device;
    bool only_look = false, repair = false, json = false, quiet = false;
};

Result<fsck::Report> run(const Words &words) {
    pm::OpenOptions open;
    open.private_copy = words.only_look;
    open.patient = true;
    const auto region = TRY(pm::open_region(words.device, open));
    fsck::Report damage;
    const std::uint64_t replayed =
        TRY(fsck::replay_journal(*region, journal::current_boot_id(), !words.only_look, &damage));
    if (replayed != 0 && !words.json && !words.quiet)
        fmt::print("{}: the journal was replayed{}: {}\n", printable(words.device),
                   words.only_look ? " in memory" : "", counted(replayed, "transaction"));
    fsck::Report report = TRY(fsck::check(*region));
    // While the journal cannot be replayed nothing is written.
    if (words.repair && damage.clean()) TRY(fsck::repair(*region, report));
    report.found += damage.found;
    report.problems.insert(report.problems.begin(), damage.problems.begin(), damage.problems.end());
    return report;
}

}  // namespace

int main(int argc, char **argv) {
    Words words;
    CLI::App app{"Check a pmfs volume and say what is wrong with it.", "fsck.pmfs"};
    auto *device =
        app.add_option("device", words.device,
                       "Device-DAX node, memory file or image file; or label:NAME, uuid:UUID; it "
                       "must not be mounted");
    bool codes = false;
    app.add_flag("--codes", codes, "Only list all problems that it can report");
    app.add_flag("-n", words.only_look, "Write nothing: the journal is replayed in memory");
    app.add_flag("-a,-p,-y", words.repair, "Repair what follows from the rest of the volume");
    bool ignored = false;
    int ignored_fd = 0;
    app.add_flag("-f,--force", ignored, "Check even if the volume is clean (it always does)");
    app.add_flag("--json", words.json, "Print one JSON object per line: problems, then a summary");
    app.add_flag("-q,--quiet", words.quiet, "Print nothing if the volume is clean");
    app.add_flag("-T", ignored, "Accepted from fsck(8), without effect");
    app.add_flag("-V,--verbose", ignored, "Accepted from fsck(8), without effect");
    app.add_option("-C", ignored_fd, "Accepted from fsck(8): there is no progress to show");
    app.failure_message([](const CLI::App *, const CLI::Error &error) {
        return printable(error.what()) + "\nRun with --help for more information.\n";
    });
    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError &e) {
        return app.exit(e) == 0 ? kClean : kUsage;  // --help lands here too
    }

    if (codes) {
        for (const fsck::CodeInfo &info : fsck::all_codes())
            fmt::print("{} {}\n", fsck::id_of(info.code), info.sentence);
        return kClean;
    }
    if (device->empty()) {
        fmt::print(stderr, "fsck.pmfs: give the device or image file to check (see --help)\n");
        return kUsage;
    }
    if (words.only_look && words.repair) {
        fmt::print(stderr,
                   "fsck.pmfs: -n writes nothing, so it cannot be combined with -p, -a or -y\n");
        return kUsage;
    }

    if (const auto name = probe::name_in(words.device)) {
        const auto found = probe::find_volume(*name);
        if (!found.objection.empty()) {
            fmt::print(stderr, "fsck.pmfs: {}\n", printable(found.objection));
            return kFailed;
        }
        words.device = found.path;
    }
    const auto report = run(words);
    if (!report.ok()) {
        fmt::print(stderr, "fsck.pmfs: {}: {}\n", printable(words.device), report.error().what());
        return kFailed;
    }
    const fsck::Report &found = report.value();
    if (words.json)
        fmt::print("{}", fsck::json_of(found, words.device));
    else if (!words.quiet || !found.clean() || found.medium_failed)
        fmt::print("{}", fsck::text_of(found, words.device));
    const int failed = found.medium_failed ? kFailed : 0;  // the codes are bits
    const int corrected = found.repaired != 0 ? kCorrected : 0;
    if (found.repaired == found.found) return corrected | failed;
    if (words.repair)
        fmt::print(stderr, "fsck.pmfs: {}: this version cannot repair all of these problems\n",
                   printable(words.device));
    return corrected | kLeftBroken | failed;
}
