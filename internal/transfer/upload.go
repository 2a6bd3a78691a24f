package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// PartialSuffix ends the name of a file that is still being uploaded.
const PartialSuffix = ".partial"

// UploadOptions change how a file is uploaded.
type UploadOptions struct {
	Mode     fs.FileMode      // of the finished file; 0 means 0600
	Progress func(done int64) // called with the bytes sent so far; may be nil
	// ReplacePartial removes an unfinished upload that lies in the way. Two uploads to one name at the
	// same time could otherwise mix, so the default is to refuse with ErrPartial.
	ReplacePartial bool
}

func (o UploadOptions) mode() fs.FileMode {
	if o.Mode == 0 {
		return 0o600
	}
	return o.Mode.Perm()
}

// Stage sends size bytes of src to NAME.partial, with many writes in flight, checks the size there and
// makes the file durable. Renaming it to its name is left to the caller. On any error, and when ctx
// ends, the unfinished file is removed. It returns size.
func Stage(ctx context.Context, fsys FS, src io.ReaderAt, size int64, path string, o UploadOptions) (int64, error) {
	f, err := createPartial(fsys, path+PartialSuffix, o)
	if err != nil {
		return 0, err
	}
	source := &source{ctx: ctx, r: io.NewSectionReader(src, 0, size), progress: o.Progress}
	err = finish(fsys, f, path+PartialSuffix, source, size, o.mode())
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return 0, discard(fsys, path, err)
	}
	return source.n, nil
}

// discard removes an unfinished upload and says why it is one.
func discard(fsys FS, path string, err error) error {
	partial := path + PartialSuffix
	err = full(fsys, partial, err)
	if removeErr := fsys.Remove(partial); removeErr != nil && !errors.Is(removeErr, fs.ErrNotExist) &&
		!errors.Is(err, ErrConnect) && !errors.Is(err, ErrProtocol) {
		err = fmt.Errorf("%w (and %s stays: %w)", err, At(partial), removeErr)
	}
	return fmt.Errorf("uploading %s: %w", At(path), err)
}

// WriteNew sends size bytes of src to a new file under its final name, fs.ErrExist if something has
// it: for what nobody reads before all of its directory is complete. Whatever the path has come to
// lead to, nothing is replaced or removed there; what a failed one leaves stays.
func WriteNew(ctx context.Context, fsys FS, src io.ReaderAt, size int64, path string, o UploadOptions) error {
	f, err := fsys.Create(path, o.mode())
	if err == nil {
		source := &source{ctx: ctx, r: io.NewSectionReader(src, 0, size), progress: o.Progress}
		err = finish(fsys, f, path, source, size, o.mode())
	}
	if err != nil {
		return fmt.Errorf("uploading %s: %w", At(path), full(fsys, path, err))
	}
	return ctx.Err()
}

// UploadFile is WriteNew for a file of this machine.
func UploadFile(ctx context.Context, fsys FS, local, path string, o UploadOptions) error {
	f, err := os.Open(local)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", local)
	}
	return WriteNew(ctx, fsys, f, info.Size(), path, o)
}

func createPartial(fsys FS, partial string, o UploadOptions) (WriteFile, error) {
	f, err := fsys.Create(partial, o.mode())
	if errors.Is(err, fs.ErrExist) && o.ReplacePartial {
		if err := fsys.Remove(partial); err != nil {
			return nil, fmt.Errorf("removing %s: %w", At(partial), err)
		}
		f, err = fsys.Create(partial, o.mode())
	}
	switch {
	case errors.Is(err, fs.ErrExist):
		return nil, fail(Error{Kind: ErrPartial, What: At(partial) + " exists: another upload is under way, or one was cut off",
			Next: "if no other upload is running, remove that file and try again"})
	case err != nil:
		return nil, fmt.Errorf("creating %s: %w", At(partial), full(fsys, partial, err))
	}
	return f, nil
}

// finish copies everything, makes it durable and compares sizes. It closes f.
func finish(fsys FS, f WriteFile, partial string, source *source, want int64, mode fs.FileMode) error {
	n, err := f.ReadFrom(source)
	var info fs.FileInfo
	if err == nil {
		info, err = settled(fsys, f, partial)
	}
	if err == nil && info.Mode().Perm() != mode {
		err = f.Chmod(mode)
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	switch {
	case err != nil:
		return err
	case n != source.n || info.Size() != n || !info.Mode().IsRegular():
		return fmt.Errorf("read %d bytes, sent %d, and %d arrived", source.n, n, info.Size())
	case n != want:
		return fmt.Errorf("the source had %d bytes instead of %d: it changed while it was read", n, want)
	}
	return nil
}

// source counts and stops when the context ends.
type source struct {
	ctx      context.Context
	r        io.Reader
	progress func(int64)
	n        int64
}

func (s *source) Read(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := s.r.Read(p)
	s.n += int64(n)
	if s.progress != nil {
		s.progress(s.n)
	}
	return n, err
}

// ErrMoving: a file became longer or shorter while it was fetched.
var ErrMoving = errors.New("it changed while it was fetched")

// Download fetches a regular file into a new local one, which appears under its name when it is
// complete, and returns its size in bytes: the one that it had when it was opened. More than limit is an error.
func Download(ctx context.Context, fsys FS, path, local string, limit int64, progress func(done int64)) (int64, error) {
	f, err := fsys.Open(path)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", At(path), err)
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return 0, fmt.Errorf("%s: %w", At(path), err)
	case !info.Mode().IsRegular():
		return 0, fmt.Errorf("%s is not a regular file", At(path))
	case info.Size() > limit:
		return 0, fmt.Errorf("%s has %d bytes, more than %d", At(path), info.Size(), limit)
	}
	out, err := Local{}.Create(local+PartialSuffix, 0o600)
	if err != nil {
		return 0, err
	}
	sink := &sink{ctx: ctx, w: out, progress: progress, limit: info.Size()}
	if to, ok := f.(io.WriterTo); ok { // keeps many reads in flight
		_, err = to.WriteTo(sink)
	} else {
		_, err = io.Copy(sink, f)
	}
	if err == nil && sink.n != info.Size() {
		err = fmt.Errorf("%w: had %d bytes and gave %d", ErrMoving, info.Size(), sink.n)
	}
	if err == nil {
		err = out.Sync()
	}
	if closeErr := out.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(local+PartialSuffix, local)
	}
	if err != nil {
		_ = os.Remove(local + PartialSuffix)
		return 0, fmt.Errorf("downloading %s: %w", At(path), err)
	}
	return sink.n, nil
}

// sink is source's counterpart.
type sink struct {
	ctx      context.Context
	w        io.Writer
	progress func(int64)
	n, limit int64
}

func (s *sink) Write(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	if s.n+int64(len(p)) > s.limit {
		return 0, ErrMoving
	}
	n, err := s.w.Write(p)
	s.n += int64(n)
	if s.progress != nil {
		s.progress(s.n)
	}
	return n, err
}
