package keyserver

import (
	"context"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/internal/keyserver/audit"
)

// Conditions that keep the key service from being ready, beside that of accounts.
const (
	conditionWriting = "audit log and store"
	conditionRoom    = "disk"
)

// look finds out whether the service can do its work.
func (s *Server) look(ctx context.Context) {
	_ = s.accounts.refresh(ctx) // its error is a condition
	s.conditions.SetCertificate(s.cert, time.Now())
	s.conditions.Set(conditionRoom, noRoom(filepath.Dir(s.auditLog)))
	if s.conditions.Has(conditionWriting) { // else it would stay until somebody asks for something
		_, _ = s.commits.do(&audit.Event{Event: "service.writes", Outcome: audit.OutcomeDone}, nil)
	}
}

// noRoom returns why nothing can be written into a directory's file system.
func noRoom(dir string) string {
	var st unix.Statfs_t
	switch err := unix.Statfs(dir, &st); {
	case err != nil:
		return "the audit log's file system does not answer"
	case st.Flags&unix.ST_RDONLY != 0:
		return "the audit log's file system is read-only"
	case st.Bavail == 0:
		return "the audit log's file system is full"
	}
	return ""
}
