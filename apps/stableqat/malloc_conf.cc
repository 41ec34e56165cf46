// How jemalloc serves this program (jemalloc(3), TUNING); the environment's MALLOC_CONF goes before it.
//
// Training asks for the same tens of megabytes in every step. Memory that was given back is kept (dirty_decay_ms), large pieces of it, too
// (oversize_threshold), and is cut up for smaller ones (lg_extent_max_active_fit): else a tenth of a step goes to page faults.

extern "C" {
extern const char* malloc_conf;
__attribute__((visibility("default"))) const char* malloc_conf = "oversize_threshold:0,dirty_decay_ms:-1,lg_extent_max_active_fit:20";
}
