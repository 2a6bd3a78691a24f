// Command registry is a container registry in memory, on loopback, that has one image:
//
//	registry localhost:5000/talinx/jp2a:latest jp2a.tar
//
// The image comes from an archive of docker save. It prints "ready" when the image is there.
package main

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: registry REFERENCE FILE")
		os.Exit(2)
	}
	if err := serve(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "registry:", err)
		os.Exit(1)
	}
}

func serve(reference, file string) error {
	ref, err := name.ParseReference(reference)
	if err != nil {
		return err
	}
	img, err := tarball.ImageFromPath(file, nil)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", ref.Context().RegistryStr())
	if err != nil {
		return err
	}
	server := &http.Server{Handler: registry.New(registry.Logger(log.New(io.Discard, "", 0))), ReadHeaderTimeout: 10 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	if err := remote.Write(ref, img); err != nil {
		return err
	}
	fmt.Println("ready")
	return <-ended
}
