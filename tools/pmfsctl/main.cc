// pmfsctl: words in, words out.  What the verbs do is in verbs.cc.
#include <CLI/CLI.hpp>

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

void add_ranges(CLI::App *verb, Options &options) {
    const CLI::AsSizeValue size(false);
    verb->add_option("--offset", options.offset, "First byte (default 0)")->transform(size);
    verb->add_option("--length", options.length, "Bytes (default: to the end)")->transform(size);
    verb->add_option("--unit", options.unit,
                     "Align to this (default: 2MiB, or the mapping unit for a small file)")
        ->transform(size);
}

}  // namespace

int main(int argc, char **argv) {
    Options options;
    int (*run)(const Options &) = nullptr;
    const auto runs = [&run](int (*verb)(const Options &)) { return [&run, verb] { run = verb; }; };

    CLI::App app{"Look at, seal and prepare files on a mounted pmfs volume.", "pmfsctl"};
    app.require_subcommand(1);
    app.footer("Exit status: 0 done, 1 failed (a sentence says why), 2 wrong usage.");
    add_verb(app, "info", "What a file is, and how it is sealed", options)
        ->callback(runs(pmfs::ctl::info));
    add_verb(app, "status", "The volume that a path is on", options, "PATH")
        ->callback(runs(pmfs::ctl::status));
    CLI::App *prepare = add_verb(app, "prepare",
                                 "Allocate, write and align a file, so that it can be sealed full "
                                 "and mapped",
                                 options);
    add_ranges(prepare, options);
    prepare->callback(runs(pmfs::ctl::prepare));

    CLI::App *seal = add_verb(app, "seal", "Freeze the block map of a file", options);
    bool full = false;
    auto *as_is = seal->add_flag("--as-is", options.as_is, "With its holes and unwritten blocks");
    seal->add_flag("--full", full,
                   "Only if every block is allocated, written, private and aligned "
                   "(the default)")
        ->excludes(as_is);
    seal->add_flag("--prepare", options.prepare, "Prepare the file first");
    seal->callback(runs(pmfs::ctl::seal));
    add_verb(app, "unseal", "Let the block map of a file change again", options)
        ->callback(runs(pmfs::ctl::unseal));

    CLI::App *map = add_verb(app, "map", "The extents of a file, or a picture of the whole volume",
                             options, "PATH");
    map->add_option("--color", options.color, "auto, always or never")
        ->transform(CLI::CheckedTransformer(kColors));
    map->add_flag("--ascii", options.ascii, "Draw with plain characters");
    map->add_option("--width", options.width, "Columns (default: the terminal's)")
        ->check(CLI::Range(40, 1000));
    map->callback(runs(pmfs::ctl::map));
    add_verb(app, "holders", "Who holds a file: grants and open handles", options)
        ->callback(runs(pmfs::ctl::holders));

    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError &error) {
        return app.exit(error) == 0 ? pmfs::ctl::kDone : pmfs::ctl::kUsage;  // --help, too
    }
    return run(options);
}
