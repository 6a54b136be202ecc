// pmfsctl's command line.  The verbs are in verbs.cc and its siblings.
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
    verb->add_flag("--json", options.json, "Print JSON; sizes are in bytes");
    verb->add_option(what, options.path)->required();
    return verb;
}

void add_range(CLI::App *verb, Options &options) {
    const CLI::AsSizeValue size(false);
    verb->add_option("--offset", options.offset, "First byte of the range (default 0)")
        ->transform(size);
    verb->add_option("--length", options.length,
                     "Bytes of the range (default: to the end of the file)")
        ->transform(size);
}

void add_unit(CLI::App *verb, Options &options) {
    const CLI::AsSizeValue size(false);
    auto *unit =
        verb->add_option(
                "--unit", options.unit,
                "Align to units of this size (default: 2MiB, or the mapping unit for a small file)")
            ->transform(size);
    verb->add_flag("--contiguous", options.contiguous,
                   "Make the file one extent, moving other files' data if necessary")
        ->excludes(unit);
}

// Empty: this is a valid time to wait.
std::string check_seconds(const std::string &text) {
    char *end = nullptr;
    const double seconds = std::strtod(text.c_str(), &end);
    const bool whole = end != text.c_str() && *end == 0;
    return whole && seconds >= 0 ? "" : text + " is not a number of seconds";
}

using Run = int (*)(const Options &);

// The verbs that hold a file for as long as they run, and those that show holders.
void add_holding_verbs(CLI::App &app, Options &options, Run *run) {
    const auto runs = [run](Run verb) { return [run, verb] { *run = verb; }; };
    add_verb(app, "holders",
             "List the holders of a file: grants and open handles, with their processes", options)
        ->callback(runs(pmfs::ctl::holders));
    add_verb(app, "watch",
             "Print a line for each holder that comes, goes or is asked to give its lease back",
             options)
        ->callback(runs(pmfs::ctl::watch));
    const struct {
        const char *name, *help;
        Run verb;
    } kHolding[] = {
        {"lease", "Hold a breakable lease while a command runs, or until Ctrl-C or a break",
         pmfs::ctl::lease},
        {"pin", "Pin a range (default: the whole file) while a command runs, or until Ctrl-C",
         pmfs::ctl::pin},
    };
    for (const auto &holding : kHolding) {
        CLI::App *verb = add_verb(app, holding.name, holding.help, options);
        add_range(verb, options);
        verb->add_option("COMMAND", options.command, "Command to run, after --");
        verb->callback(runs(holding.verb));
    }
    CLI::App *revoke =
        add_verb(app, "revoke", "End grants of a file, whoever holds them (root only)", options);
    revoke->add_option("--grant", options.grant, "End the grant with this ID (see holders --json)")
        ->check(CLI::PositiveNumber);
    revoke->add_option("--pid", options.pid, "End the grants of this process")
        ->check(CLI::PositiveNumber);
    revoke->add_flag("--all", options.all, "End all grants of the file");
    revoke
        ->add_option(
            "--inode", options.inode,
            "Number of the file's inode, if it has no name; FILE is then any path on the volume")
        ->check(CLI::PositiveNumber);
    revoke->callback([run, &options] {
        const int chosen = (options.grant != 0) + (options.pid != 0) + (options.all ? 1 : 0);
        if (chosen != 1)
            throw CLI::ValidationError("revoke", "requires one of --grant, --pid and --all");
        *run = pmfs::ctl::revoke;
    });
    CLI::App *quarantine =
        add_verb(app, "quarantine", "List processes that lost a grant and may still map its blocks",
                 options, "PATH");
    auto *all = quarantine->add_flag(
        "--release-all", options.release_all,
        "Free all of these blocks now (root only): only if no process stores to them");
    quarantine
        ->add_option(
            "--release", options.release,
            "Free the blocks with this ID now (root only): only if no process stores to them")
        ->check(CLI::PositiveNumber)
        ->excludes(all);
    quarantine->callback(runs(pmfs::ctl::quarantine));
}

// Verbs that give files to virtual machines.
void add_guest_verbs(CLI::App &app, Options &options, Run *run) {
    CLI::App *layout =
        add_verb(app, "layout",
                 "Print where a file that is sealed full lies on the device, for a virtual machine",
                 options);
    layout
        ->add_option_function<std::string>(
            "--format", [&options](const std::string &) { options.qemu = true; },
            "qemu: the options that give the file to a guest as a read-only virtio-pmem device")
        ->check(CLI::IsMember({"qemu"}))
        ->excludes("--json");
    layout->callback([run] { *run = pmfs::ctl::layout; });
    CLI::App *program = app.add_subcommand(
        "run", "Take a grant on each file and execute a command, e.g. QEMU, in this process");
    program->add_option("FILE", options.paths)->required();
    program->footer(
        "COMMAND follows the files: pmfsctl run FILE... -- COMMAND...  Its argument {pmem}\n"
        "is replaced by the devices of the files.");
    program->callback([run, &options] {
        if (options.command.empty())
            throw CLI::ValidationError("run", "requires a command to run, after --");
        *run = pmfs::ctl::run;
    });
}

// The words after -- belong to the program, whatever they look like.
int split_program(int argc, char **argv, Options *options) {
    char **const end = argv + argc;
    char **const mark =
        std::find_if(argv, end, [](const char *w) { return std::string_view(w) == "--"; });
    if (argc < 2 || std::string_view(argv[1]) != "run" || mark == end) return argc;
    options->command.assign(mark + 1, end);
    return static_cast<int>(mark - argv);
}

// Verbs that change the whole volume.
void add_volume_verbs(CLI::App &app, Options &options, Run *run) {
    CLI::App *grow =
        add_verb(app, "grow", "Extend the volume into space that its medium has gained (root only)",
                 options, "PATH");
    grow->add_option("--size", options.size, "New size of the volume (default: all of the medium)")
        ->transform(CLI::AsSizeValue(false))
        ->check(CLI::PositiveNumber);
    grow->callback([run] { *run = pmfs::ctl::grow; });
    CLI::App *tune = add_verb(
        app, "tune", "Print the percentage of the volume that is reserved for root, or change it",
        options, "PATH");
    tune->add_option_function<std::string>(
        "--reserve",
        [&options](const std::string &text) {
            options.reserve = pmfs::hundredths(text);
            if (!options.reserve || *options.reserve > 5000)
                throw CLI::ValidationError(
                    "--reserve",
                    text + ": must be a percentage from 0 to 50, with at most two decimals");
        },
        "New percentage, 0 to 50, with at most two decimals (root only)");
    tune->callback([run] { *run = pmfs::ctl::tune; });
    add_verb(
        app, "compact",
        "Empty chunks that hold small pieces of data, so that more chunks are free (root only)",
        options, "PATH")
        ->callback([run] { *run = pmfs::ctl::compact; });
}

// map, which draws.
void add_map(CLI::App &app, Options &options, Run *run) {
    CLI::App *map = add_verb(
        app, "map", "Print the extents of a file, or a picture of the whole volume for a directory",
        options, "PATH");
    map->add_option("--color", options.color, "Use color: auto, always or never")
        ->transform(CLI::CheckedTransformer(kColors));
    map->add_flag("--ascii", options.ascii, "Draw with ASCII characters only");
    map->add_option("--width", options.width,
                    "Width of the picture in columns (default: the terminal's)")
        ->check(CLI::Range(40, 1000));
    map->callback([run] { *run = pmfs::ctl::map; });
}

// Verbs for a device that need not be mounted.
void add_device_verbs(CLI::App &app, Options &options, Run *run) {
    CLI::App *probe =
        add_verb(app, "probe", "Print which volume is on a device or image file, mounted or not",
                 options, "DEVICE");
    probe->add_flag("--udev", options.udev, "Print variables for a udev rule")->excludes("--json");
    probe->callback([run] { *run = pmfs::ctl::probe; });
    CLI::App *doctor = add_verb(
        app, "doctor",
        "Report what is wrong with the machine, a device or a mount, with commands that mend it",
        options, "PATH");
    doctor->add_option("--root", options.root,
                       "Use /sys, /proc and /dev below this directory, and open no device");
    doctor->callback([run] { *run = pmfs::ctl::doctor; });
}

}  // namespace

int main(int argc, char **argv) {
    Options options;
    Run run = nullptr;
    const auto runs = [&run](Run verb) { return [&run, verb] { run = verb; }; };

    CLI::App app{"Inspect, seal and prepare files on a mounted pmfs volume, and manage the volume.",
                 "pmfsctl"};
    app.require_subcommand(1);
    app.footer(
        "Exit status: 0 success, 1 failure (a message says why), 2 usage error.\n"
        "lease and pin with a command, and run: the status of the command.");
    add_verb(app, "info", "Print a file's size, seal, extents and map digest", options)
        ->callback(runs(pmfs::ctl::info));
    add_verb(app, "status", "Print information about the volume that contains a path", options,
             "PATH")
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
    auto *as_is = seal->add_flag("--as-is", options.as_is,
                                 "Freeze the map with its holes and unwritten blocks");
    seal->add_flag("--full", full,
                   "Require that every block is allocated, written, private and aligned "
                   "(the default)")
        ->excludes(as_is);
    auto *prepares = seal->add_flag("--prepare", options.prepare, "Prepare the file first");
    seal->add_flag("--contiguous", options.contiguous, "With --prepare: make the file one extent")
        ->needs(prepares);
    seal->callback(runs(pmfs::ctl::seal));
    CLI::App *unseal = add_verb(app, "unseal", "Let the block map of a file change again", options);
    std::string wait = "0";  // CLI11 makes a whole number of a flag's value, unless it is text
    unseal
        ->add_flag("--wait{inf}", wait,
                   "Wait until the file has no holders; --wait=SECONDS: at most that long")
        ->check(CLI::Validator(check_seconds, "SECONDS"));
    unseal->callback([&run, &wait, &options] {
        options.wait_seconds = std::stod(wait);
        run = pmfs::ctl::unseal;
    });

    add_map(app, options, &run);
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
