// pmfsctl: words in, words out.  What the verbs do is in verbs.cc.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdlib>
#include <string_view>

#include "base/printable.h"
#include "base/units.h"
#include "verbs.h"

namespace {

using pmfs::ctl::Color;
using pmfs::ctl::Options;

const std::map<std::string, Color> kColors = {
    {"auto", Color::automatic}, {"always", Color::always}, {"never", Color::never}};

CLI::App *add_verb(CLI::App &app, const std::string &name, const std::string &help,
                   Options &options, const std::string &what = "FILE") {
    CLI::App *verb = app.add_subcommand(name, help);
    verb->add_flag("--json", options.json, "JSON on standard output: sizes in bytes");
    verb->add_option(what, options.path)->required();
    return verb;
}

void add_range(CLI::App *verb, Options &options) {
    const CLI::AsSizeValue size(false);
    verb->add_option("--offset", options.offset, "First byte (default 0)")->transform(size);
    verb->add_option("--length", options.length, "Bytes (default: to the end)")->transform(size);
}

void add_unit(CLI::App *verb, Options &options) {
    const CLI::AsSizeValue size(false);
    auto *unit =
        verb->add_option("--unit", options.unit,
                         "Align to this (default: 2MiB, or the mapping unit for a small file)")
            ->transform(size);
    verb->add_flag("--contiguous", options.contiguous,
                   "Make it one extent, also by moving other files' data")
        ->excludes(unit);
}

// Empty: this is a time that one can wait.
std::string check_seconds(const std::string &text) {
    char *end = nullptr;
    const double seconds = std::strtod(text.c_str(), &end);
    const bool whole = end != text.c_str() && *end == 0;
    return whole && seconds >= 0 ? "" : text + " is not a number of seconds";
}

using Run = int (*)(const Options &);

// The verbs that hold a file for as long as they run, and what looks at holders.
void add_holding_verbs(CLI::App &app, Options &options, Run *run) {
    const auto runs = [run](Run verb) { return [run, verb] { *run = verb; }; };
    add_verb(app, "holders", "Who holds a file: grants and open handles", options)
        ->callback(runs(pmfs::ctl::holders));
    add_verb(app, "watch", "A line for each holder that comes, goes or is asked to go", options)
        ->callback(runs(pmfs::ctl::watch));
    const struct {
        const char *name, *help;
        Run verb;
    } kHolding[] = {
        {"lease", "Hold a breakable lease while a command runs, or until it is broken",
         pmfs::ctl::lease},
        {"pin", "Keep the blocks of a range where they are while a command runs", pmfs::ctl::pin},
    };
    for (const auto &holding : kHolding) {
        CLI::App *verb = add_verb(app, holding.name, holding.help, options);
        add_range(verb, options);
        verb->add_option("COMMAND", options.command, "What to run, behind --");
        verb->callback(runs(holding.verb));
    }
    CLI::App *revoke =
        add_verb(app, "revoke", "End grants of a file, whoever holds them (root)", options);
    revoke->add_option("--grant", options.grant, "The grant of this ID (see holders --json)")
        ->check(CLI::PositiveNumber);
    revoke->add_option("--pid", options.pid, "Those of this process")->check(CLI::PositiveNumber);
    revoke->add_flag("--all", options.all, "All of them");
    revoke
        ->add_option("--inode", options.inode,
                     "Of the file of this number, which may have no name; FILE: anything beside it")
        ->check(CLI::PositiveNumber);
    revoke->callback([run, &options] {
        const int chosen = (options.grant != 0) + (options.pid != 0) + (options.all ? 1 : 0);
        if (chosen != 1)
            throw CLI::ValidationError("revoke", "say which: one of --grant, --pid, --all");
        *run = pmfs::ctl::revoke;
    });
    CLI::App *quarantine = add_verb(
        app, "quarantine", "Blocks held back for holders that lost their grants", options, "PATH");
    auto *all = quarantine->add_flag("--release-all", options.release_all,
                                     "Vouch that nobody stores to any of them");
    quarantine
        ->add_option("--release", options.release, "Vouch that nobody stores to those of this ID")
        ->check(CLI::PositiveNumber)
        ->excludes(all);
    quarantine->callback(runs(pmfs::ctl::quarantine));
}

// What gives files to virtual machines.
void add_guest_verbs(CLI::App &app, Options &options, Run *run) {
    CLI::App *layout =
        add_verb(app, "layout", "Where a sealed file lies on the device, for a guest", options);
    layout
        ->add_option_function<std::string>(
            "--format", [&options](const std::string &) { options.qemu = true; },
            "qemu: its -object and -device, a virtio-pmem device that only reads")
        ->check(CLI::IsMember({"qemu"}))
        ->excludes("--json");
    layout->callback([run] { *run = pmfs::ctl::layout; });
    CLI::App *program = app.add_subcommand(
        "run", "Become a program, QEMU for instance, that has sealed files as virtio-pmem");
    program->add_option("FILE", options.paths)->required();
    program->footer("The program follows --; its word {pmem} becomes the devices of the files.");
    program->callback([run, &options] {
        if (options.command.empty())
            throw CLI::ValidationError("run", "say what to run, behind --");
        *run = pmfs::ctl::run;
    });
}

// The words behind -- are the program's, whatever they look like.
int split_program(int argc, char **argv, Options *options) {
    char **const end = argv + argc;
    char **const mark =
        std::find_if(argv, end, [](const char *w) { return std::string_view(w) == "--"; });
    if (argc < 2 || std::string_view(argv[1]) != "run" || mark == end) return argc;
    options->command.assign(mark + 1, end);
    return static_cast<int>(mark - argv);
}

// What changes the volume as a whole.
void add_volume_verbs(CLI::App &app, Options &options, Run *run) {
    CLI::App *grow =
        add_verb(app, "grow", "Take what the volume's medium has gained (root)", options, "PATH");
    grow->add_option("--size", options.size, "Grow to this (default: all of the medium)")
        ->transform(CLI::AsSizeValue(false))
        ->check(CLI::PositiveNumber);
    grow->callback([run] { *run = pmfs::ctl::grow; });
    CLI::App *tune = add_verb(app, "tune", "What is kept for root", options, "PATH");
    tune->add_option_function<std::string>(
        "--reserve",
        [&options](const std::string &text) {
            options.reserve = pmfs::hundredths(text);
            if (!options.reserve || *options.reserve > 5000)
                throw CLI::ValidationError(
                    "--reserve",
                    text + ": a percentage from 0 to 50 is wanted, with two decimals at most");
        },
        "How many percent of the volume only root may fill, 0 to 50 (root)");
    tune->callback([run] { *run = pmfs::ctl::tune; });
}

// What looks at a device that need not be mounted.
void add_device_verbs(CLI::App &app, Options &options, Run *run) {
    CLI::App *probe = add_verb(app, "probe", "Which volume is on a device", options, "DEVICE");
    probe->add_flag("--udev", options.udev, "Variables for a udev rule")->excludes("--json");
    probe->callback([run] { *run = pmfs::ctl::probe; });
    CLI::App *doctor = add_verb(
        app, "doctor", "What is wrong with a machine, a device or a mount, and what mends it",
        options, "PATH");
    doctor->add_option("--root", options.root,
                       "Look at /sys, /proc and /dev below this directory, and open nothing");
    doctor->callback([run] { *run = pmfs::ctl::doctor; });
}

}  // namespace

int main(int argc, char **argv) {
    Options options;
    Run run = nullptr;
    const auto runs = [&run](Run verb) { return [&run, verb] { run = verb; }; };

    CLI::App app{"Look at, seal and prepare files on a mounted pmfs volume.", "pmfsctl"};
    app.require_subcommand(1);
    app.footer(
        "Exit status: 0 done, 1 failed (a sentence says why), 2 wrong usage.\n"
        "lease and pin with a command, and run: the command's.");
    add_verb(app, "info", "What a file is, and how it is sealed", options)
        ->callback(runs(pmfs::ctl::info));
    add_verb(app, "status", "The volume that a path is on", options, "PATH")
        ->callback(runs(pmfs::ctl::status));
    CLI::App *prepare = add_verb(app, "prepare",
                                 "Allocate, write and align a file, so that it can be sealed full "
                                 "and mapped",
                                 options);
    add_range(prepare, options);
    add_unit(prepare, options);
    prepare->callback(runs(pmfs::ctl::prepare));

    CLI::App *seal = add_verb(app, "seal", "Freeze the block map of a file", options);
    bool full = false;
    auto *as_is = seal->add_flag("--as-is", options.as_is, "With its holes and unwritten blocks");
    seal->add_flag("--full", full,
                   "Only if every block is allocated, written, private and aligned "
                   "(the default)")
        ->excludes(as_is);
    auto *prepares = seal->add_flag("--prepare", options.prepare, "Prepare the file first");
    seal->add_flag("--contiguous", options.contiguous, "... and make it one extent")
        ->needs(prepares);
    seal->callback(runs(pmfs::ctl::seal));
    CLI::App *unseal = add_verb(app, "unseal", "Let the block map of a file change again", options);
    std::string wait = "0";  // CLI11 makes a whole number of a flag's value, unless it is text
    unseal
        ->add_flag("--wait{inf}", wait,
                   "Wait until nobody holds it; --wait=SECONDS: not longer than that")
        ->check(CLI::Validator(check_seconds, "SECONDS"));
    unseal->callback([&run, &wait, &options] {
        options.wait_seconds = std::stod(wait);
        run = pmfs::ctl::unseal;
    });

    CLI::App *map = add_verb(app, "map", "The extents of a file, or a picture of the whole volume",
                             options, "PATH");
    map->add_option("--color", options.color, "auto, always or never")
        ->transform(CLI::CheckedTransformer(kColors));
    map->add_flag("--ascii", options.ascii, "Draw with plain characters");
    map->add_option("--width", options.width, "Columns (default: the terminal's)")
        ->check(CLI::Range(40, 1000));
    map->callback(runs(pmfs::ctl::map));
    add_verb(app, "compact", "Move data together, so that more chunks are free as a whole (root)",
             options, "PATH")
        ->callback(runs(pmfs::ctl::compact));
    add_holding_verbs(app, options, &run);
    add_guest_verbs(app, options, &run);
    add_volume_verbs(app, options, &run);
    add_device_verbs(app, options, &run);

    app.failure_message([](const CLI::App *, const CLI::Error &error) {
        return pmfs::printable(error.what()) + "\nRun with --help for more information.\n";
    });
    try {
        app.parse(split_program(argc, argv, &options), argv);
    } catch (const CLI::ParseError &error) {
        return app.exit(error) == 0 ? pmfs::ctl::kDone : pmfs::ctl::kUsage;  // --help, too
    }
    return run(options);
}
