/* kvdisk - keys and values of conversations on disk, so that one that is opened again need not be
 * computed again.
 *
 * A folder beside the conversations holds a folder for each of them, which holds a file for each
 * page. A page's file is found by its key, a hash of all that its bits depend on: the model's
 * bytes, how the engine computes and lays them out, and all tokens up to its end; so what does not
 * match is not found, and what is found gives the bits that computing would. Files carry an
 * authentication code under a secret of the conversations' own file: damaged or foreign ones are
 * removed and count as not there. Nothing here is needed: every failure means computing again.
 *
 * A disk may be used by several threads, and its folder by several processes. */
#ifndef NIB_KVDISK_H
#define NIB_KVDISK_H
#include "engine/engine.h"

typedef struct nib_kvdisk nib_kvdisk;
#define NIB_KVDISK_AUTO UINT64_MAX /* 2 GB, or 5 % of what the disk has free when that is less */
/* The folder is made when it is missing. max_bytes: all files together; what was not used for
 * longest goes first, a whole conversation at a time. */
nib_status nib_kvdisk_open(nib_kvdisk **out, const char *folder, const uint8_t secret[16],
                           uint64_t max_bytes, nib_error *e);
/* After the engines that use it. */
void nib_kvdisk_close(nib_kvdisk *d);
/* Gives an engine the disk as its page store; owners are conversations' ids. Reads the model's
 * files once for their hash, which is remembered as long as they stay as they are. progress (may be
 * NULL) is told of that; when it returns false, it is NIB_ERR_CANCELLED. */
typedef bool (*nib_kvdisk_progress)(void *arg, uint64_t done, uint64_t total);
nib_status nib_kvdisk_attach(nib_kvdisk *d, nib_engine *en, nib_kvdisk_progress progress, void *arg,
                             nib_error *e);
/* The store itself, for pages of page_bytes of whatever 'identity' stands for. Lives as long as d.
 */
nib_status nib_kvdisk_bind(nib_kvdisk *d, const uint8_t identity[16], size_t page_bytes,
                           nib_page_store *out, nib_error *e);
/* Removes a conversation's files, now and for good: pages of it that are still under way are
 * dropped. */
void nib_kvdisk_forget(nib_kvdisk *d, int64_t owner);
/* Removes the files of all owners that do not live any more, and what killed processes left. */
void nib_kvdisk_sweep(nib_kvdisk *d, bool (*lives)(void *arg, int64_t owner), void *arg);

typedef struct nib_kvdisk_stats {
    uint64_t bytes, max_bytes;             /* bytes: as far as known */
    uint64_t n_read, n_written, n_refused; /* pages; refused: damaged or foreign */
} nib_kvdisk_stats;
nib_kvdisk_stats nib_kvdisk_get_stats(nib_kvdisk *d);
#endif
