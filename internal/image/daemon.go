package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/internal/oci"
	"github.com/sealbatch/sealbatch/internal/text"
)

// usualSocket is where Docker's daemon listens.
const usualSocket = "/var/run/docker.sock"

// maxAnswer bounds what the daemon says of an image or of an error, in bytes.
const maxAnswer = 4 << 20

// Errors of asking a daemon.
var (
	errNoSocket = errors.New("there is no Docker daemon here")
	errNoImage  = errors.New("the Docker daemon has no image of that name")
	errNoAnswer = errors.New("it does not answer")
)

// patience is how long the daemon may take to say what an image is.
const patience = 30 * time.Second

// asked is what a daemon is asked for: a reference or an ID.
var asked = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:@-]*(/[A-Za-z0-9_][A-Za-z0-9._:@-]*)*$`)

// socket returns the path of the daemon's socket: the user's word, that of DOCKER_HOST, or the usual one,
// or that of a daemon without root. errNoSocket if none is there.
func (o Options) socket() (string, error) {
	if o.DockerSocket != "" {
		return strings.TrimPrefix(o.DockerSocket, "unix://"), nil
	}
	if host := os.Getenv("DOCKER_HOST"); host != "" {
		path, ok := strings.CutPrefix(host, "unix://")
		if !ok {
			return "", fault.New(fault.Usage, fmt.Errorf("%w: DOCKER_HOST is %s", errNoSocket, text.Printable(host)),
				"sealbatch speaks to a daemon on this machine only, by its socket; docker save -o FILE IMAGE writes a file, which -b takes")
		}
		return path, nil
	}
	for _, path := range []string{usualSocket, filepath.Join(os.Getenv("XDG_RUNTIME_DIR"), "docker.sock")} {
		if st, err := os.Stat(path); err == nil && st.Mode()&fs.ModeSocket != 0 && filepath.IsAbs(path) {
			return path, nil
		}
	}
	return "", fault.New(fault.Usage, fmt.Errorf("%w: no socket at %s", errNoSocket, usualSocket), "-d SOCKET names another")
}

// tryDaemon opens the image name of the daemon, if there is one that has it; else it returns nil.
// A daemon that the user did not name, or named as it is called anyway, and that does not answer, is only told of.
func (o Options) tryDaemon(ctx context.Context, name string) (*Image, error) {
	img, err := o.openDaemon(ctx, name)
	unasked := (o.DockerSocket == "" || o.DockerSocket == usualSocket) && ctx.Err() == nil
	switch {
	case err == nil:
		return img, nil
	case errors.Is(err, errNoImage):
		o.Log.Info("the Docker daemon has no such image: the registry is asked", "image", name)
		return nil, nil
	case unasked && errors.Is(err, errNoSocket) && os.Getenv("DOCKER_HOST") == "":
		return nil, nil
	case unasked && (errors.Is(err, errNoSocket) || errors.Is(err, errNoAnswer)):
		o.Log.Warn("the Docker daemon was not asked for the image: the registry is", "image", name, "why", err.Error())
		return nil, nil
	}
	return nil, err
}

// dockerDaemon speaks Docker's API (docs.docker.com/reference/api/engine, "Image") over a socket.
type dockerDaemon struct {
	socket string
	client *http.Client
}

func dial(socket string) *dockerDaemon {
	var d net.Dialer
	return &dockerDaemon{socket, &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return d.DialContext(ctx, "unix", socket) },
	}}}
}

// openDaemon opens an image that the daemon has. The daemon sends it once, as an archive of docker save, into a spool.
func (o Options) openDaemon(ctx context.Context, name string) (*Image, error) {
	socket, err := o.socket()
	if err != nil {
		return nil, err
	}
	if !asked.MatchString(name) {
		return nil, fault.New(fault.Usage, errNoImage, "docker images lists what it has")
	}
	d := dial(socket)
	defer d.client.CloseIdleConnections()
	said, err := d.inspect(ctx, name)
	if err != nil {
		return nil, err
	}
	if o.Signed {
		return nil, Unsignable("with the Docker daemon")
	}
	a, err := o.save(ctx, d, name)
	if err != nil {
		return nil, err
	}
	img, err := o.pick(ctx, a, origin{name: name}, "")
	if err == nil {
		err = said.check(a, img)
	}
	if err != nil {
		return nil, errors.Join(err, a.Close())
	}
	return img, nil
}

// inspected is what the daemon says of an image.
type inspected struct {
	ID string `json:"Id"` // the digest of the config, or with containerd's store that of the manifest or index
}

// check holds the image that was sent against what the daemon said before, since a tag may have moved on.
func (i inspected) check(f files, img *Image) error {
	id := "sha256:" + strings.TrimPrefix(i.ID, "sha256:")
	if id == img.Digest || id == oci.DigestOf(img.RawConfig) {
		return nil
	}
	if raw, err := readFile(f, indexFile, oci.MaxManifest); err == nil && strings.Contains(string(raw), `"`+id+`"`) {
		return nil
	}
	err := fmt.Errorf("the daemon has sent another image, %s, than the %s that it named before: the name has moved on",
		img.Digest, text.Printable(id))
	return fault.New(fault.Other, err, "run it again")
}

// inspect asks what the daemon has under a name: errNoImage if nothing.
func (d *dockerDaemon) inspect(ctx context.Context, name string) (inspected, error) {
	var out inspected
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errNoAnswer)
	defer cancel()
	body, err := d.get(ctx, &url.URL{Path: "/images/" + name + "/json"})
	if err != nil {
		return out, err
	}
	defer body.Close()
	b, err := fsx.ReadAll(body, maxAnswer)
	if err == nil {
		err = json.Unmarshal(b, &out)
	}
	if err != nil {
		return out, fmt.Errorf("the Docker daemon at %s: what it says of the image cannot be read: %w", d.socket, err)
	}
	return out, nil
}

// save has the daemon send an image, and opens it.
func (o Options) save(ctx context.Context, d *dockerDaemon, name string) (*archive, error) {
	what := &url.URL{Path: "/images/" + name + "/get"}
	if o.Platform != "" { // for Docker 28 and later; earlier ones have one platform of an image
		p, err := oci.ParsePlatform(o.Platform)
		if err != nil {
			return nil, err
		}
		b, err := json.Marshal(p)
		if err != nil {
			return nil, err
		}
		what.RawQuery = url.Values{"platform": {string(b)}}.Encode()
	}
	body, err := d.get(ctx, what)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	bar := o.Progress.Start("read from Docker", 0, 0)
	a, err := o.spooled(&metered{ctx: ctx, r: body, tell: func(n int64) { bar.Update(n, 0) }})
	bar.End(err == nil)
	if err != nil {
		return nil, fmt.Errorf("the Docker daemon at %s: %w", d.socket, err)
	}
	return a, nil
}

// get asks the daemon.
func (d *dockerDaemon) get(ctx context.Context, what *url.URL) (io.ReadCloser, error) {
	what.Scheme, what.Host = "http", "docker"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, what.String(), nil)
	if err != nil {
		return nil, err
	}
	res, err := d.client.Do(req)
	if err != nil {
		return nil, d.noAnswer(err)
	}
	if res.StatusCode != http.StatusOK {
		defer res.Body.Close()
		return nil, d.refusal(res)
	}
	return res.Body, nil
}

// noAnswer says why the daemon does not answer.
func (d *dockerDaemon) noAnswer(err error) error {
	hint := ""
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, fs.ErrPermission):
		hint = "your user may not speak to it: join the group docker, or write the image to a file: sudo docker save -o FILE IMAGE"
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
		hint = "it is not running; -d SOCKET names another, and docker://IMAGE asks the registry"
	}
	var inner *url.Error // which repeats a URL that nobody wrote
	if errors.As(err, &inner) {
		err = inner.Err
	}
	return fault.New(fault.Usage, fmt.Errorf("the Docker daemon at %s: %w: %w", d.socket, errNoAnswer, err), hint)
}

// refusal reads an answer that is an error: {"message": "..."}.
func (d *dockerDaemon) refusal(res *http.Response) error {
	var said struct{ Message string }
	b, err := fsx.ReadAll(res.Body, 64<<10)
	if err != nil || json.Unmarshal(b, &said) != nil || said.Message == "" {
		said.Message = res.Status
	}
	why := text.Printable(strings.Join(strings.Fields(said.Message), " "))
	if res.StatusCode == http.StatusNotFound && strings.Contains(strings.ToLower(why), "such image") {
		return fault.New(fault.Usage, fmt.Errorf("%w (%s)", errNoImage, d.socket), "docker images lists what it has")
	}
	class := fault.Other
	if res.StatusCode < http.StatusInternalServerError {
		class = fault.Usage
	}
	return fault.New(class, fmt.Errorf("the Docker daemon at %s: %.200s", d.socket, why), "")
}
