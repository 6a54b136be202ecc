// Reports in words and in JSON: see print.h.
#include "fsck/print.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/printable.h"

namespace pmfs::fsck {

std::string text_of(const Report &report, const std::string &device) {
    std::string text;
    for (const Problem &problem : report.problems) text += text_of(problem) + "\n";
    if (report.found > report.problems.size())
        text += fmt::format("... and {} more\n", report.found - report.problems.size());
    if (report.medium_failed)
        text +=
            "the medium failed while it was read: what lies there was taken for zeroes (see the "
            "kernel's log)\n";
    if (report.gave_up)
        text += "too much is wrong: the rest was not looked at\n";
    else if (report.unjudged)
        text += "this damage hides what some blocks or names belong to; they were not judged\n";
    text += fmt::format(
        "{}: {}, {} inodes ({} directories, {} orphans, {} sealed{}), {} of {} "
        "blocks in use\n",
        printable(device),
        report.clean() ? std::string("clean")
                       : fmt::format("{} problem{}{}", report.found, report.found == 1 ? "" : "s",
                                     report.repaired == 0 ? ""
                                     : report.repaired == report.found
                                         ? ", repaired"
                                         : fmt::format(", {} repaired", report.repaired)),
        report.inodes, report.directories, report.orphans, report.sealed,
        report.grants == 0 ? "" : fmt::format(", {} grant records", report.grants),
        report.blocks_used, report.blocks);
    return text;
}

std::string json_of(const Report &report, const std::string &device) {
    // A name may be no UTF-8; and written in ASCII, a terminal obeys none of it.
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
