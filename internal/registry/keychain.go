package registry

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/docker/cli/cli/config/configfile"
	"github.com/docker/cli/cli/config/credentials"
	"github.com/docker/cli/cli/config/types"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/trusted"
)

// maxAuthFile bounds a file of logins.
const maxAuthFile = 4 << 20

// keychain finds the user's logins where Docker's and Podman's "login" put them. The library's own
// looks into one file only, Docker's if there is one, and by one name of docker.io; here the first file
// that has a login for the repository counts:
//
//	$REGISTRY_AUTH_FILE                                Podman's, where somebody set it
//	$DOCKER_AUTH_CONFIG                                the content of such a file, as CI systems hand it over
//	$DOCKER_CONFIG/config.json                         Docker's, where somebody set it
//	$XDG_RUNTIME_DIR/containers/auth.json              Podman's; /run/containers/UID without the variable
//	${XDG_CONFIG_HOME:-~/.config}/containers/auth.json Podman's on other systems
//	~/.docker/config.json                              Docker's
//
// Within a file the longest name counts (HOST/a/b, HOST/a, HOST), and credential
// helpers (credHelpers, credsStore) come before what the file itself holds.
type keychain struct {
	getenv func(string) string
	uid    int
	log    *slog.Logger
}

// login is what was found for a repository.
type login struct {
	authn.Authenticator
	from string // the file, for messages; "" if nothing was found
}

// find returns the login for repo, authn.Anonymous if there is none.
func (k keychain) find(repo name.Repository) (login, error) {
	files := k.files()
	for _, path := range files {
		cf, err := k.load(path)
		if err != nil {
			return login{}, err
		}
		if cf == nil {
			continue
		}
		auth, err := lookUp(cf, repo)
		if err != nil {
			return login{}, fault.New(fault.Config, fmt.Errorf("the login for %s: %s: %w", hostOf(repo), path, err),
				"does the credential helper work? docker login or podman login tries it")
		}
		if auth != nil {
			return login{auth, path}, nil
		}
	}
	return login{Authenticator: authn.Anonymous}, nil
}

// inEnv is the "file" that an environment variable holds.
const inEnv = "$" + configfile.DockerEnvConfigKey

func (k keychain) files() (paths []string) {
	put := func(dir string, elem ...string) {
		if dir != "" {
			paths = append(paths, filepath.Join(append([]string{dir}, elem...)...))
		}
	}
	put(k.getenv("REGISTRY_AUTH_FILE"))
	if k.getenv(configfile.DockerEnvConfigKey) != "" {
		put(inEnv)
	}
	put(k.getenv("DOCKER_CONFIG"), "config.json")
	if run := k.getenv("XDG_RUNTIME_DIR"); run != "" {
		put(run, "containers/auth.json")
	} else {
		put("/run/containers", strconv.Itoa(k.uid), "auth.json")
	}
	home := k.getenv("HOME")
	if config := k.getenv("XDG_CONFIG_HOME"); config != "" {
		put(config, "containers/auth.json")
	} else {
		put(home, ".config/containers/auth.json")
	}
	if k.getenv("DOCKER_CONFIG") == "" {
		put(home, ".docker/config.json")
	}
	return paths
}

// load reads a file of logins; nil if there is none, or none that could be believed.
func (k keychain) load(path string) (*configfile.ConfigFile, error) {
	raw := []byte(k.getenv(configfile.DockerEnvConfigKey))
	if path != inEnv {
		b, err := trusted.ReadFile(path, maxAuthFile)
		switch {
		case errors.Is(err, fs.ErrNotExist) && path == k.getenv("REGISTRY_AUTH_FILE"):
			return nil, fault.New(fault.Config, fmt.Errorf("the logins for registries: %w", err),
				"REGISTRY_AUTH_FILE names it: mend or unset that")
		case errors.Is(err, fs.ErrNotExist):
			return nil, nil
		case err != nil:
			k.log.Warn("a file of logins for registries is not used", "file", path, "error", err)
			return nil, nil
		}
		raw = b
	}
	cf := configfile.New(path)
	if err := cf.LoadFromReader(bytes.NewReader(raw)); err != nil {
		return nil, fault.New(fault.Config, fmt.Errorf("the logins for registries: %s cannot be read: %w", path, err),
			"docker login and podman login write such files; mend it, or move it away")
	}
	return cf, nil
}

// lookUp returns what cf has for repo, or nil.
func lookUp(cf *configfile.ConfigFile, repo name.Repository) (authn.Authenticator, error) {
	hosts := []string{repo.RegistryStr()}
	if hosts[0] == name.DefaultRegistry || hosts[0] == "registry-1."+hub {
		hosts = []string{authn.DefaultAuthKey, hub, name.DefaultRegistry, "registry-1." + hub}
	}
	for path := repo.RepositoryStr(); path != "." && path != "/" && path != ""; path = filepath.Dir(path) {
		for _, host := range hosts {
			if a := usable(cf.AuthConfigs[host+"/"+path]); a != nil {
				return a, nil
			}
		}
	}
	for _, host := range hosts {
		if a, err := fromHelper(cf, host); a != nil || err != nil {
			return a, err
		}
	}
	for _, host := range hosts {
		for key, c := range cf.AuthConfigs {
			if bare(key) == bare(host) {
				if a := usable(c); a != nil {
					return a, nil
				}
			}
		}
	}
	return nil, nil
}

// bare takes off what old versions of Docker put around a host.
func bare(key string) string {
	key = strings.TrimPrefix(strings.TrimPrefix(key, "https://"), "http://")
	for _, suffix := range []string{"/", "/v1", "/v2"} {
		key = strings.TrimSuffix(key, suffix)
	}
	return key
}

// fromHelper asks the program that cf names for host, docker-credential-NAME.
func fromHelper(cf *configfile.ConfigFile, host string) (authn.Authenticator, error) {
	helper, ok := cf.CredentialHelpers[host]
	if !ok {
		helper = cf.CredentialsStore
	}
	if helper == "" {
		return nil, nil
	}
	c, err := credentials.NewNativeStore(cf, helper).Get(host)
	if err != nil {
		return nil, fmt.Errorf("docker-credential-%s: %w", helper, err)
	}
	return usable(c), nil
}

// usable returns a login, or nil if c holds none.
func usable(c types.AuthConfig) authn.Authenticator {
	a := authn.AuthConfig{Username: c.Username, Password: c.Password, Auth: c.Auth,
		IdentityToken: c.IdentityToken, RegistryToken: c.RegistryToken}
	if a == (authn.AuthConfig{}) {
		return nil
	}
	return authn.FromConfig(a)
}
