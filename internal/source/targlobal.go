package source

import (
	"archive/tar"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/sealbatch/sealbatch/internal/text"
)

// setGlobal takes the records of a global pax header, which hold for all members that follow (POSIX pax,
// typeflag g): comments, as of git archive, owners, which volumes do not have, and times, of which alone something is
// kept: there may be any number of headers. Names and sizes that hold for all members would make one thing of several.
func (w *tarWalk) setGlobal(records map[string]string) error {
	for key := range records {
		if key == "path" || key == "linkpath" || key == "size" || strings.HasPrefix(key, "GNU.sparse.") {
			return fmt.Errorf("%w: it says a %s for all of its members", ErrArchive, key)
		}
	}
	if mtime, ok := records["mtime"]; ok {
		w.mtime = strings.Clone(mtime) // not with all of its header, which may be 1 MiB
	}
	return nil
}

// applyGlobal gives a member the time that a global header says, where its own says none.
func (w *tarWalk) applyGlobal(h *tar.Header) {
	if _, own := h.PAXRecords["mtime"]; own || w.mtime == "" {
		return
	}
	if t, err := paxTime(w.mtime); err == nil { // archive/tar passes on none that is wrong
		h.ModTime = t
	}
}

// maxSparse bounds the sparse files of an archive, in bytes: their holes are sealed as zeros, and a few bytes of
// archive can stand for any number of them.
const maxSparse = 256 << 30

// countSparse adds a member to the sparse ones, if it is one: in GNU tar's own format, or in pax's.
func (w *tarWalk) countSparse(h *tar.Header) error {
	sparse := h.Typeflag == tar.TypeGNUSparse
	for key := range h.PAXRecords {
		sparse = sparse || strings.HasPrefix(key, "GNU.sparse.")
	}
	if !sparse {
		return nil
	}
	if w.sparse += min(h.Size, maxSparse+1); w.sparse > maxSparse {
		return refuse(h.Name, "is a sparse file of %s, which would be sealed with its holes; %s of them are taken", text.Size(h.Size),
			text.Size(maxSparse))
	}
	return nil
}

// paxTime reads seconds since 1970 with a fraction.
func paxTime(s string) (time.Time, error) {
	whole, fraction, _ := strings.Cut(s, ".")
	seconds, err := strconv.ParseInt(whole, 10, 64)
	if err != nil {
		return time.Time{}, err
	}
	fraction = (fraction + "000000000")[:9]
	nanos, err := strconv.ParseUint(fraction, 10, 32)
	if err != nil {
		return time.Time{}, err
	}
	if strings.HasPrefix(whole, "-") {
		return time.Unix(seconds, -int64(nanos)), nil
	}
	return time.Unix(seconds, int64(nanos)), nil
}
