// The operations: they translate the kernel's arguments to the volume's, and results to an errno.
// They decide nothing.
//
// Each file of operations adds its part to libfuse's table. An operation calls the volume once,
// lets Dispatcher::proceed() handle an error (or a request that must be parked), and replies.
#pragma once
#include "front/requests/dispatcher.h"
#include "front/requests/fuse_api.h"

namespace pmfs::front {

void add_name_operations(fuse_lowlevel_ops &table);       // ops_name.cc
void add_attribute_operations(fuse_lowlevel_ops &table);  // ops_attr.cc
void add_directory_operations(fuse_lowlevel_ops &table);  // ops_dir.cc
void add_file_operations(fuse_lowlevel_ops &table);       // ops_file.cc
void add_lock_operations(fuse_lowlevel_ops &table);       // ops_lock.cc

inline fuse_lowlevel_ops operations() {
    fuse_lowlevel_ops table{};
    add_name_operations(table);
    add_attribute_operations(table);
    add_directory_operations(table);
    add_file_operations(table);
    add_lock_operations(table);
    return table;
}

}  // namespace pmfs::front
