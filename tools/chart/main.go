// The program chart lints a Helm chart and renders it, as Helm does, reads each
// manifest into Kubernetes' own types, which must know every field of it, and
// writes them as a JSON list:
//
//	chart CHART RELEASE [VALUES.yaml]
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
	"helm.sh/helm/v3/pkg/releaseutil"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/yaml"
)

const namespace = "default"

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "chart:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 2 || len(args) > 3 {
		return errors.New("chart CHART RELEASE [VALUES.yaml]")
	}
	values := chartutil.Values{}
	if len(args) == 3 {
		var err error
		if values, err = chartutil.ReadValuesFile(args[2]); err != nil {
			return err
		}
	}
	if err := linted(args[0], values); err != nil {
		return err
	}
	manifests, err := render(args[0], args[1], values)
	if err != nil {
		return err
	}
	objects := []any{}
	for _, m := range manifests {
		o, err := decode(m)
		if err != nil {
			return fmt.Errorf("%w\n%s", err, m)
		}
		objects = append(objects, o)
	}
	return json.NewEncoder(os.Stdout).Encode(objects)
}

// linted returns what helm lint has against a chart, warnings too.
func linted(dir string, values chartutil.Values) error {
	var errs []error
	for _, m := range lint.All(dir, values, namespace, true).Messages {
		if m.Severity > support.InfoSev {
			errs = append(errs, m)
		}
	}
	return errors.Join(errs...)
}

// render returns the manifests of a chart, in the order in which Helm installs them.
func render(dir, release string, values chartutil.Values) ([]string, error) {
	c, err := loader.Load(dir)
	if err != nil {
		return nil, err
	}
	all, err := chartutil.ToRenderValues(c, values,
		chartutil.ReleaseOptions{Name: release, Namespace: namespace, IsInstall: true}, chartutil.DefaultCapabilities)
	if err != nil {
		return nil, err
	}
	files, err := engine.Render(c, all)
	if err != nil {
		return nil, err
	}
	maps.DeleteFunc(files, func(name, _ string) bool { return strings.HasSuffix(name, "NOTES.txt") })
	_, sorted, err := releaseutil.SortManifests(files, nil, releaseutil.InstallOrder)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, m := range sorted {
		out = append(out, m.Content)
	}
	return out, nil
}

// kinds are those that a chart may have.
var kinds = map[string]func() any{
	"v1 ConfigMap":                       func() any { return &corev1.ConfigMap{} },
	"v1 PersistentVolumeClaim":           func() any { return &corev1.PersistentVolumeClaim{} },
	"v1 Service":                         func() any { return &corev1.Service{} },
	"apps/v1 Deployment":                 func() any { return &appsv1.Deployment{} },
	"batch/v1 Job":                       func() any { return &batchv1.Job{} },
	"networking.k8s.io/v1 NetworkPolicy": func() any { return &networkingv1.NetworkPolicy{} },
}

// decode reads a manifest: fields that Kubernetes does not know, and such as are there twice, are errors.
func decode(text string) (any, error) {
	var head struct{ APIVersion, Kind string }
	if err := yaml.Unmarshal([]byte(text), &head); err != nil {
		return nil, err
	}
	object, ok := kinds[head.APIVersion+" "+head.Kind]
	if !ok {
		return nil, fmt.Errorf("%q of %q is none of %q", head.Kind, head.APIVersion, slices.Sorted(maps.Keys(kinds)))
	}
	o := object()
	return o, yaml.UnmarshalStrict([]byte(text), o)
}
