// Files of the Hub, fetched into the cache that huggingface_hub uses too, so that neither fetches what the other has.
//
// Layout (https://huggingface.co/docs/huggingface_hub/guides/manage-cache), below HubOptions::cache:
//   TYPEs--ORG--NAME/blobs/DIGEST                 a file's content; DIGEST.incomplete while it is being fetched
//   TYPEs--ORG--NAME/snapshots/COMMIT/PATH        symbolic link to it
//   TYPEs--ORG--NAME/refs/REVISION                text: the commit that a branch or tag stood for
//   .locks/TYPEs--ORG--NAME/DIGEST.lock           locked (flock) while the blob is being fetched
#pragma once

#include <filesystem>
#include <optional>
#include <span>
#include <string>

#include "stableqat/hub/repository.h"

namespace stableqat::hub {

// Where the files of `commit` appear; a folder that need not exist yet.
std::filesystem::path snapshot_folder(const Repository& repository, const std::string& commit, const HubOptions& options);

// Fetches those of `files` (of one listing of `commit`) that the cache does not have, several at a time, each from where an earlier
// attempt stopped, checks size and digest, and makes their entries in the snapshot. A cached file of another size is fetched again from
// what is good of it. False when a stop was requested: what was fetched is kept, also of files that are not complete.
// Reports the stage "download" in bytes of all files. Memory does not depend on the size of files.
// Throws EnvironmentError (network, disk, access refused), DataError (content that is not what the listing says, three times in a row).
// Several processes may fetch the same files: they wait for each other.
bool download_files(const Repository& repository, const std::string& commit, std::span<const HubFile> files, const HubOptions& options,
                    const HubCallbacks& callbacks);

// Notes that `revision` stood for `commit`, so that huggingface_hub finds it without network. Nothing to note for a commit.
void write_reference(const Repository& repository, const std::string& revision, const std::string& commit, const HubOptions& options);

// The snapshot that `revision` stood for when it was last fetched, by this program or by huggingface_hub; nullopt when it never was. Needs
// no network. It holds what was fetched then, which need not be all files.
std::optional<std::filesystem::path> cached_snapshot(const Repository& repository, const std::string& revision, const HubOptions& options);

}  // namespace stableqat::hub
