"""The compiled loop's radix caches: what a prompt finds computed, what is kept, what goes first.

After `SWARadixCache` of SGLang 0.5.15: a match must end where the sliding window of 128 tokens before it
is still in the window pool, or reach from the root over nodes that all keep theirs; the full pool evicts
the least recently used leaf, the window pool the least recently used node, and a leaf without its
window goes altogether. Cached tokens that nobody needs count as free for admission.
"""

from __future__ import annotations

from typing import Any

from simulator.loop_state import *

WINDOW = 128
PAGE_SIZE = 256


@inner
def unlink(following: Any, previous: Any, r: int, x: int) -> None:
    """Take a node out of a list, if it is in."""
    if following[r, x] < 0:
        return
    following[r, previous[r, x]] = following[r, x]
    previous[r, following[r, x]] = previous[r, x]
    following[r, x] = previous[r, x] = -1


@inner
def insert_before(following: Any, previous: Any, r: int, x: int, at: int) -> None:
    """Put a node into a list right before another (the sentinel: as most recently used)."""
    before = previous[r, at]
    following[r, before] = previous[r, at] = x
    previous[r, x], following[r, x] = before, at


@inner
def match(cache: Any, r: int, leaf: int) -> int:
    """Deepest node on the path to `leaf` that a prompt may start from, or -1."""
    best, covered = -1, 0
    x = leaf
    while x >= 0:
        kept = cache.window[r, x] > 0 or cache.owners[r, x] > 0
        if cache.present[r, x] == 0 or (best >= 0 and covered < WINDOW and not kept):
            best, covered = -1, 0
        elif kept:
            if best < 0:
                best = x
            covered += cache.tokens[x]
        x = cache.parent[x]
    return best


@inner
def touch(cache: Any, r: int, node: int) -> None:
    """Mark a path as used now in the window list: its head first to go."""
    at = len(cache.parent)
    x = node
    while x >= 0:
        if cache.window[r, x] > 0:
            unlink(cache.swa_next, cache.swa_prev, r, x)
            insert_before(cache.swa_next, cache.swa_prev, r, x, at)
            at = x
        x = cache.parent[x]


@inner
def lock(cache: Any, ranks: Any, r: int, node: int) -> None:
    """A request needs a path: its tokens are in use, once for all who share them."""
    x = node
    while x >= 0:
        if cache.locks[r, x] == 0:
            unlink(cache.full_next, cache.full_prev, r, x)
            ranks.f[r, CACHED_FULL] -= cache.tokens[x]
            ranks.f[r, USED_FULL] += cache.tokens[x]
        cache.locks[r, x] += 1
        x = cache.parent[x]
    touch(cache, r, node)


@inner
def unlock(cache: Any, ranks: Any, r: int, node: int) -> None:
    """The opposite; the leaf goes to the list first, so that it is evicted before what it hangs on."""
    x = node
    while x >= 0:
        cache.locks[r, x] -= 1
        if cache.locks[r, x] == 0:
            insert_before(cache.full_next, cache.full_prev, r, x, len(cache.parent))
            ranks.f[r, CACHED_FULL] += cache.tokens[x]
            ranks.f[r, USED_FULL] -= cache.tokens[x]
        x = cache.parent[x]
    touch(cache, r, node)


@inner
def add_window(cache: Any, ranks: Any, r: int, x: int, tokens: int) -> None:
    """Leave window-pool tokens with a node, evictable."""
    if tokens <= 0:
        return
    cache.window[r, x] += tokens
    ranks.f[r, CACHED_SWA] += tokens


@inner
def drop_window(cache: Any, ranks: Any, r: int, x: int) -> None:
    """Free a node's evictable window tokens."""
    if cache.window[r, x] > 0:
        ranks.f[r, CACHED_SWA] -= cache.window[r, x]
        cache.window[r, x] = 0
        unlink(cache.swa_next, cache.swa_prev, r, x)


@inner
def drop(cache: Any, ranks: Any, r: int, node: int) -> None:
    """Evict an unused leaf, and what then hangs in the air: parents that are leaves without a window."""
    x = node
    while x >= 0:
        unlink(cache.full_next, cache.full_prev, r, x)
        ranks.f[r, CACHED_FULL] -= cache.tokens[x]
        drop_window(cache, ranks, r, x)
        cache.present[r, x] = 0
        x = cache.parent[x]
        if x < 0:
            return
        cache.children[r, x] -= 1
        if cache.children[r, x] > 0 or cache.locks[r, x] > 0 or cache.window[r, x] > 0:
            return


@inner
def make_room(cache: Any, ranks: Any, r: int, full: float, window: float) -> None:
    """Evict until what is in use and what is cached fit the pools."""
    end = len(cache.parent)
    while ranks.f[r, USED_FULL] + ranks.f[r, CACHED_FULL] > full and cache.full_next[r, end] != end:
        drop(cache, ranks, r, cache.full_next[r, end])
    while ranks.f[r, USED_SWA] + ranks.f[r, CACHED_SWA] > window and cache.swa_next[r, end] != end:
        x = cache.swa_next[r, end]
        if cache.children[r, x] > 0 or cache.locks[r, x] > 0:
            drop_window(cache, ranks, r, x)
        else:
            drop(cache, ranks, r, x)


@inner
def enter(cache: Any, ranks: Any, r: int, x: int) -> None:
    """A node's tokens, private so far, become part of the tree; those that are there already are freed."""
    if cache.present[r, x] == 1:
        ranks.f[r, USED_FULL] -= cache.tokens[x]
        if cache.locks[r, x] == 0:
            unlink(cache.full_next, cache.full_prev, r, x)
            ranks.f[r, CACHED_FULL] -= cache.tokens[x]
            ranks.f[r, USED_FULL] += cache.tokens[x]
    else:
        cache.present[r, x] = 1
        if cache.parent[x] >= 0:
            cache.children[r, cache.parent[x]] += 1
    cache.locks[r, x] += 1


@inner
def hit_tokens(cache: Any, reqs: Any, req: int) -> int:
    """Prompt tokens that the matched path saves: whole pages, and never the last token."""
    hit = reqs.i[req, HIT]
    if hit < 0:
        return 0
    return min(cache.depth[hit], reqs.i[req, TARGET] - 1) // PAGE_SIZE * PAGE_SIZE


@inner
def insert_prompt(cache: Any, ranks: Any, reqs: Any, r: int, req: int) -> None:
    """A prompt is computed: its nodes below the hit enter the tree, held by the request."""
    leaf = reqs.i[req, PROMPT]
    hit, kept = reqs.i[req, HIT], reqs.i[req, KEPT]
    if hit >= 0:
        ranks.f[r, USED_FULL] -= cache.depth[hit] - hit_tokens(cache, reqs, req)
    x = leaf
    while x != hit:
        enter(cache, ranks, r, x)
        if cache.window[r, x] == 0:
            add_window(cache, ranks, r, x, cache.tokens[x] - (kept if x == leaf else 0))
        x = cache.parent[x]
    cache.owners[r, leaf] = 1
    touch(cache, r, leaf)


@inner
def release_prompt(cache: Any, ranks: Any, reqs: Any, r: int, req: int) -> None:
    """A request no longer needs its prompt; the window it held stays with it, evictable."""
    leaf = reqs.i[req, PROMPT]
    cache.owners[r, leaf] = 0
    # A retracted prompt left its window there already; what it computed anew is freed.
    add_window(cache, ranks, r, leaf, min(reqs.i[req, KEPT], cache.tokens[leaf] - cache.window[r, leaf]))
    unlock(cache, ranks, r, leaf)


@inner
def insert_answer(cache: Any, ranks: Any, reqs: Any, r: int, req: int, window: float) -> None:
    """A finished answer enters the tree behind its prompt, with the window it still held."""
    x = reqs.i[req, ANSWER]
    if x < 0:
        return
    if cache.present[r, x] == 1:
        # A run before got the same answer: this copy is freed, and that one counts as used now.
        unlink(cache.full_next, cache.full_prev, r, x)
        insert_before(cache.full_next, cache.full_prev, r, x, len(cache.parent))
        touch(cache, r, x)
        return
    cache.present[r, x] = 1
    cache.children[r, cache.parent[x]] += 1
    insert_before(cache.full_next, cache.full_prev, r, x, len(cache.parent))
    ranks.f[r, CACHED_FULL] += cache.tokens[x]
    add_window(cache, ranks, r, x, min(int(window), cache.tokens[x]))
    touch(cache, r, x)
