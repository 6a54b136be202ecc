// Reports in words and in JSON: see print.h.
#include "fsck/print.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/printable.h"
#include "base/units.h"

namespace pmfs::fsck {

std::string text_of(const Report &report, const std::string &device) {
    std::string text;
    for (const Problem &problem : report.problems) text += text_of(problem) + "\n";
    if (report.found > report.problems.size())
        text += fmt::format("... and {} more\n", report.found - report.problems.size());
    if (report.medium_failed)
        text +=
            "the medium returned errors: bytes that could not be read were taken as zeroes (see "
            "the "
            "kernel's log)\n";
    if (report.gave_up)
        text += "there are too many problems: the rest was not checked\n";
    else if (report.unjudged)
        text +=
            "because of this damage it is unknown to what some blocks or names belong; they were "
            "not "
            "checked\n";
    std::string state = "clean";
    if (!report.clean()) state = counted(report.found, "problem");
    if (report.repaired != 0)
        state += report.repaired == report.found ? ", repaired"
                                                 : fmt::format(", {} repaired", report.repaired);
    text += fmt::format(
        "{}: {}; inodes: {} (directories: {}, orphans: {}, sealed: {}{}); {} of {} in use\n",
        printable(device), state, report.inodes, report.directories, report.orphans, report.sealed,
        report.grants == 0 ? "" : fmt::format(", grant records: {}", report.grants),
        report.blocks_used, counted(report.blocks, "block"));
    return text;
}

std::string json_of(const Report &report, const std::string &device) {
    // A name may not be UTF-8; and in ASCII it cannot control a terminal.
    const auto dump = [](const nlohmann::json &line) {
        return line.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace) + "\n";
    };
    std::string text;
    for (const Problem &problem : report.problems) {
        const CodeInfo &info = info_of(problem.code);
        nlohmann::json line = {{"type", "problem"},
                               {"code", id_of(problem.code)},
                               {"name", info.name},
                               {"sentence", info.sentence}};
        if (problem.block != Problem::kNone) {
            line["block"] = problem.block;
            line["blocks"] = problem.blocks;
        }
        if (problem.inode != Problem::kNone) line["inode"] = problem.inode;
        if (!problem.detail.empty()) line["detail"] = problem.detail;
        if (problem.repaired) line["repaired"] = true;
        text += dump(line);
    }
    return text + dump({{"type", "summary"},
                        {"device", device},
                        {"clean", report.clean()},
                        {"problems", report.found},
                        {"repaired", report.repaired},
                        {"unjudged", report.unjudged},
                        {"gave_up", report.gave_up},
                        {"medium_failed", report.medium_failed},
                        {"inodes", report.inodes},
                        {"directories", report.directories},
                        {"orphans", report.orphans},
                        {"sealed", report.sealed},
                        {"grants", report.grants},
                        {"blocks", report.blocks},
                        {"blocks_used", report.blocks_used}});
}

}  // namespace pmfs::fsck
