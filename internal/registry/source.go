package registry

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/sealbatch/sealbatch/internal/retry"
	"github.com/sealbatch/sealbatch/internal/version"
)

// errRedirects is a chain of redirects that is too long.
var errRedirects = errors.New("too many redirects")

// maxRedirects is for one request; registries use one, to their storage.
const maxRedirects = 10

// source is a repository at one place: the registry that a reference names, or a mirror of it.
type source struct {
	repo   name.Repository
	mirror bool
	failed atomic.Bool // a mirror that was of no use once
	login  login
	hosts  *hosts

	mu     sync.Mutex
	client *http.Client // nil until somebody has connected
}

func (s *source) host() string { return hostOf(s.repo) }

// connect greets the registry and shows it the login, once.
func (s *source) connect(ctx context.Context) (*http.Client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client != nil {
		return s.client, nil
	}
	w := &wire{host: s.repo.RegistryStr(), anonymous: s.login.Authenticator == authn.Anonymous, to: s.hosts.to,
		stall: s.hosts.stall}
	rt := transport.NewUserAgent(w, "sealbatch/"+version.String())
	rt, err := transport.NewWithContext(ctx, s.repo.Registry, s.login.Authenticator, rt,
		[]string{s.repo.Scope(transport.PullScope)})
	if e, ok := errors.AsType[*StatusError](err); ok && passing(e.Code) {
		return nil, retry.After(e, e.Wait) // without what https said before http was tried on this machine
	}
	if err != nil {
		return nil, err
	}
	s.client = &http.Client{Transport: rt, CheckRedirect: func(_ *http.Request, via []*http.Request) error {
		if len(via) >= maxRedirects {
			return errRedirects
		}
		return nil
	}}
	return s.client, nil
}

// get asks for /v2/REPOSITORY/path, with a header if its value is not empty. The caller closes the body, which
// fails when nothing comes for a while. Statuses but 200 and 206 are errors.
func (s *source) get(ctx context.Context, path, header, value string) (*http.Response, error) {
	client, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	u := url.URL{Scheme: s.repo.Scheme(), Host: s.repo.RegistryStr(), Path: "/v2/" + s.repo.RepositoryStr() +
		"/" + path}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	if value != "" {
		req.Header.Set(header, value)
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, withoutURL(err)
	}
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusPartialContent {
		defer resp.Body.Close()
		return nil, statusOf(resp, resp.Request.URL.Host)
	}
	return resp, nil
}

// patience is how requests are repeated that broke.
func (r *Remote) patience(tries int, doing string) retry.Policy {
	return retry.Policy{
		First: r.o.firstWait, Most: 20 * time.Second, Tries: tries, Worth: again, Sleep: r.o.sleep,
		Waiting: func(wait time.Duration, err error) {
			if wait >= time.Second {
				r.o.Log.Info(doing+": again", "in", wait.Round(time.Second), "error", withoutURL(err))
			}
		},
	}
}
