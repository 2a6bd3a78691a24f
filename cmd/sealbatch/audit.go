package main

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyserver/audit"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/trusted"
	"github.com/sealbatch/sealbatch/internal/ui"
)

func runAudit(ctx context.Context, a *app, args []string) error {
	const what = "Check the key service's audit log, or fetch its signed head to keep elsewhere."
	f := ui.NewFlags("sealbatch audit", what, "verify LOG... | head", `
sealbatch audit head >kept-head
sealbatch audit verify /var/lib/sealbatch/audit*.log --key "$(cat /etc/sealbatch/statement.pub)" --head kept-head`)
	var cf clientFlags
	var key string
	var heads []string
	cf.add(f)
	f.Word(&key, "with verify: the key service's statement key (statement.pub)", []string{"key"})
	f.Strings(&heads, "with verify: file with a signed head kept from earlier; the log must still contain it", []string{"head"})
	if err := a.parse(f, args); err != nil {
		return err
	}
	switch words := f.Args(); {
	case len(words) == 1 && words[0] == "head":
		return auditHead(ctx, a, cf)
	case len(words) < 2 || words[0] != "verify":
		return usageError("sealbatch audit: the words are: verify LOG..., head", "sealbatch audit --help shows an example")
	case key == "":
		return usageError("sealbatch audit verify: --key is required", "sealbatch audit --help shows an example")
	}
	return auditVerify(a, f.Args()[1:], key, heads)
}

// auditHead prints the signed head of the log, which is how far it goes now.
func auditHead(ctx context.Context, a *app, cf clientFlags) error {
	c, err := loadClient(ctx, a, cf)
	if err != nil {
		return err
	}
	head, jws, err := c.keys.AuditHead(ctx)
	if err != nil {
		return err
	}
	a.log.Info("head of the audit log", "entry", head.Seq, "time", head.Time.Local().Format(time.DateTime))
	fmt.Fprintln(a.stdout, jws)
	return nil
}

// auditVerify checks segments of the log, oldest first.
func auditVerify(a *app, paths []string, key string, heads []string) error {
	pub, err := manifest.DecodeKey(strings.TrimSpace(key))
	if err != nil {
		return fault.New(fault.Usage, wrap("--key", err), "")
	}
	remembered, err := readHeads(pub, heads)
	if err != nil {
		return err
	}
	var row []io.Reader
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		if st, err := f.Stat(); err != nil || st.IsDir() {
			return fault.New(fault.Usage, cmp.Or(err, fmt.Errorf("%s is a directory", path)), "name the log's segments in it, in order: audit*.log")
		}
		row = append(row, f)
	}
	r, err := audit.Verify(pub, row, remembered...)
	if err != nil {
		return fault.New(fault.Integrity, wrap(strings.Join(paths, " "), err),
			"name the log's segments in order; if one is missing, fetch it from the archive; "+
				"compare with a copy of the log from a backup: entries were edited or lost")
	}
	fmt.Fprintf(a.stdout, "%d entries, unbroken; the last is %d, %s\n", r.Entries, r.Head.Seq, r.Head.Hash)
	if r.Before.Seq > 0 {
		fmt.Fprintf(a.stderr, "note: nothing is said of what comes before segment %d: entries 1 to %d, of which the last is %s\n",
			r.First, r.Before.Seq, r.Before.Hash)
	}
	return nil
}

// readHeads reads signed heads that were kept.
func readHeads(pub ed25519.PublicKey, paths []string) (heads []keyapi.AuditHead, err error) {
	for _, path := range paths {
		b, err := trusted.ReadFile(path, maxSmallFile)
		if err != nil {
			return nil, err
		}
		head, err := audit.ParseHead(pub, strings.TrimSpace(string(b)))
		if err != nil {
			return nil, fault.New(fault.Integrity, wrap(path, err), "")
		}
		heads = append(heads, head)
	}
	return heads, nil
}
