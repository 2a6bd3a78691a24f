package source

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/sealbatch/sealbatch/volume"
)

// TestTarHeadersAreNotKept: whatever pax headers hold, global ones and those of members, little of it is in memory
// afterwards. It runs alone, since it measures the heap.
func TestTarHeadersAreNotKept(t *testing.T) {
	const headers, most = 48, 8 << 20
	large := strings.Repeat("a", 1<<20-256)
	record := func(i int) map[string]string {
		return map[string]string{fmt.Sprintf("X.k%d", i): large}
	}
	for name, header := range map[string]func(int) tar.Header{
		"global": func(i int) tar.Header {
			return tar.Header{Typeflag: tar.TypeXGlobalHeader, Name: "g", PAXRecords: record(i)}
		},
		"members": func(i int) tar.Header {
			return tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("ä%d", i), PAXRecords: record(i)}
		},
		"links": func(i int) tar.Header {
			return tar.Header{Typeflag: tar.TypeSymlink, Name: fmt.Sprint(i), Linkname: "ä", PAXRecords: record(i)}
		},
	} {
		t.Run(name, func(t *testing.T) {
			before := heap()
			archive, feed := io.Pipe()
			go func() {
				w := tar.NewWriter(feed)
				var err error
				for i := 0; i < headers && err == nil; i++ {
					h := header(i)
					err = w.WriteHeader(&h)
				}
				if err == nil {
					err = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "last"})
				}
				if err == nil {
					err = w.Close()
				}
				feed.CloseWithError(err)
			}()
			var kept []volume.Entry // as a volume's index does
			grown := int64(-1)
			must(t, Tar(context.Background(), archive, "", nil, func(e volume.Entry) (uint32, error) {
				if kept = append(kept, e); e.Name == "last" {
					grown = heap() - before
				}
				return uint32(len(kept) - 1), nil
			}))
			if grown < 0 || grown > most {
				t.Errorf("%d headers of 1 MiB: the heap has grown by %d bytes; want at most %d", headers, grown, most)
			}
			runtime.KeepAlive(kept)
		})
	}
}

// heap returns the bytes in use after a collection.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
