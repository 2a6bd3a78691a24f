package deploy

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// object is what the tests want to know of a manifest.
type object struct {
	Kind     string
	Metadata struct{ Name string }
	Data     map[string]string // ConfigMap
	Spec     struct {
		Replicas    *int
		Template    struct{ Spec podSpec }
		Egress      []any
		PolicyTypes []string
	}
}

type podSpec struct {
	AutomountServiceAccountToken *bool
	SecurityContext              struct {
		RunAsNonRoot                   bool
		RunAsUser, RunAsGroup, FSGroup int
		SeccompProfile                 struct{ Type string }
	}
	Containers []container
	Volumes    []volume
}

type container struct {
	Command, Args   []string
	SecurityContext struct {
		AllowPrivilegeEscalation *bool
		ReadOnlyRootFilesystem   bool
		Capabilities             struct{ Drop []string }
	}
	Ports []struct {
		Name          string
		ContainerPort int
	}
	StartupProbe, LivenessProbe, ReadinessProbe *probe
	VolumeMounts                                []mount
}

type mount struct {
	Name, MountPath string
	ReadOnly        bool
}

type probe struct {
	HTTPGet struct{ Path, Port, Scheme string }
}

type volume struct {
	Name                  string
	PersistentVolumeClaim *struct{ ClaimName string }
	Secret                *struct {
		SecretName  string
		DefaultMode os.FileMode
		Items       []struct{ Key, Path string }
	}
	Projected *struct {
		DefaultMode os.FileMode
		Sources     []struct{ ConfigMap struct{ Name string } }
	}
}

// chart lints and renders the chart with values, and returns the manifests by their kinds.
func chart(t *testing.T, release string, values map[string]any) (map[string]object, error) {
	t.Helper()
	cmd := []string{"run", "-C", "../tools/chart", ".", "../../deploy/helm/sealbatch", release}
	if values != nil {
		b, err := json.Marshal(values)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "values.yaml")
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		cmd = append(cmd, file)
	}
	c := exec.Command("go", cmd...)
	var said strings.Builder
	c.Stderr = &said
	out, err := c.Output()
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, said.String())
	}
	var list []object
	if err := json.Unmarshal(out, &list); err != nil {
		t.Fatal(err)
	}
	byKind := map[string]object{}
	for _, o := range list {
		byKind[o.Kind] = o
	}
	if len(byKind) != len(list) {
		t.Errorf("%d manifests of %d kinds", len(list), len(byKind))
	}
	return byKind, nil
}

// cluster is a cluster's values: what its verifier's set-up wrote.
func cluster(enrol, ca string) map[string]any { return map[string]any{"enrol": enrol, "ca": ca} }

// TestChart has Helm lint and render the chart in the ways in which operators set it, and Kubernetes' types read it.
func TestChart(t *testing.T) {
	t.Parallel()
	const ca = "-----BEGIN CERTIFICATE-----\n"
	ip := map[string]any{"cidr": "192.0.2.0/24"}
	accounts := "  alice ssh-ed25519 AAAA\nbob: {{ - }} ssh-ed25519 AAAA\n"
	got, err := chart(t, "hospital", map[string]any{
		"name": "keys.example.org", "accounts": accounts,
		"clusters": map[string]any{
			"one": cluster("# lines\n[cluster one]\nverifier-ca = verifier-ca.crt\ntier = B2\n", ca+"1"),
			"two": cluster("[cluster two]\nverifier-ca=/x/ca.pem\n", ca+"2"),
		},
		"config":           "[limits]\nburst = 5000\n",
		"image":            map[string]any{"repository": "registry.example.org/s", "digest": "sha256:" + strings.Repeat("0", 64)},
		"service":          map[string]any{"type": "NodePort", "nodePort": 30443, "annotations": map[string]any{"a": "b"}},
		"networkPolicy":    map[string]any{"from": []any{map[string]any{"ipBlock": ip}}},
		"storage":          map[string]any{"className": "fast"},
		"nodeSelector":     map[string]any{"disk": "ssd"},
		"tolerations":      []any{map[string]any{"key": "k", "operator": "Exists"}},
		"podAnnotations":   map[string]any{"c": "d"},
		"imagePullSecrets": []any{map[string]any{"name": "pull"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	data := got["ConfigMap"].Data
	files := map[string]string{"accounts": accounts, "verifier-one.crt": ca + "1", "verifier-two.crt": ca + "2"}
	for name, want := range files {
		if data[name] != want {
			t.Errorf("%s: %q, want %q", name, data[name], want)
		}
	}
	for _, want := range []string{"\nverifier-ca = verifier-one.crt\ntier = B2\n",
		"\n[cluster two]\nverifier-ca = verifier-two.crt\n", "\n[limits]\nburst = 5000\n"} {
		if conf := data["server.conf"]; !strings.Contains(conf, want) {
			t.Errorf("server.conf lacks %q:\n%s", want, conf)
		}
	}
	if d := got["Deployment"]; d.Metadata.Name != "hospital-sealbatch" || *d.Spec.Replicas != 1 || got["Job"].Kind != "" {
		t.Errorf("%q has %d pods, and %+v", d.Metadata.Name, *d.Spec.Replicas, got["Job"])
	}
	if p := got["NetworkPolicy"].Spec; len(p.PolicyTypes) != 2 || len(p.Egress) != 0 {
		t.Errorf("the service may call others: %+v", p)
	}
}

// TestChartRefuses: values that mean nothing, and such as are forgotten, are errors.
func TestChartRefuses(t *testing.T) {
	t.Parallel()
	for what, values := range map[string]map[string]any{
		"name: the key service's name is needed": nil,
		"additional properties 'acounts'":        {"name": "k", "acounts": "alice"},
		"'/image/digest'":                        {"name": "k", "image": map[string]any{"digest": "latest"}},
		"'/clusters/c/enrol'":                    {"name": "k", "clusters": map[string]any{"c": cluster("x", "BEGIN CERTIFICATE")}},
	} {
		if _, err := chart(t, "sealbatch", values); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
