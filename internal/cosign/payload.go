package cosign

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// payload is what the older form signs: Red Hat's simple signing with a type of cosign's
// (containers/image, docs/containers-signature.5.md).
type payload struct {
	Critical struct {
		Type     string `json:"type"`
		Identity struct {
			Reference string `json:"docker-reference"`
		} `json:"identity"`
		Image struct {
			Digest string `json:"docker-manifest-digest"`
		} `json:"image"`
	} `json:"critical"`
}

const payloadType = "cosign container image signature"

// simple checks a signature of the older form, and returns what the image was called.
func (k *Key) simple(blob []byte, signature, digest string) (name string, err error) {
	if signature == "" {
		return "", errNone
	}
	sig, err := decode(signature)
	if err != nil {
		return "", err
	}
	if err := k.verify(blob, sig); err != nil {
		return "", err
	}
	var p payload
	if err := json.Unmarshal(blob, &p); err != nil {
		return "", fmt.Errorf("what is signed cannot be read: %w", err)
	}
	switch {
	case p.Critical.Type != payloadType:
		return "", fmt.Errorf("what is signed is no statement about an image, but %.100q", p.Critical.Type)
	case p.Critical.Image.Digest != digest:
		return "", fmt.Errorf("another image is signed, %.100s", p.Critical.Image.Digest)
	}
	return p.Critical.Identity.Reference, nil
}

// bundle is Sigstore's, as protobuf writes it in JSON; a part of it. What it says of
// certificates and logs is left alone: the key alone decides.
type bundle struct {
	MediaType string    `json:"mediaType"`
	Envelope  *envelope `json:"dsseEnvelope"`
	Message   *struct {
		Signature []byte `json:"signature"`
	} `json:"messageSignature"`
}

// envelope is a DSSE envelope.
type envelope struct {
	Payload    []byte `json:"payload"`
	Type       string `json:"payloadType"`
	Signatures []struct {
		Sig []byte `json:"sig"`
	} `json:"signatures"`
}

// statement is in-toto's (in-toto/attestation, spec/v1/statement.md).
type statement struct {
	Type    string `json:"_type"`
	Subject []struct {
		Digest map[string]string `json:"digest"`
	} `json:"subject"`
	Predicate string `json:"predicateType"`
}

const (
	inToto    = "application/vnd.in-toto+json"
	signature = "https://sigstore.dev/cosign/sign/v1"
)

// bundle checks a signature of the newer form.
func (k *Key) bundle(blob []byte, s Subject) error {
	var b bundle
	if err := json.Unmarshal(blob, &b); err != nil {
		return fmt.Errorf("a bundle cannot be read: %w", err)
	}
	switch {
	case !strings.HasPrefix(b.MediaType, bundleType):
		return fmt.Errorf("a bundle is of unknown type %.100q", b.MediaType)
	case (b.Envelope == nil) == (b.Message == nil):
		return errors.New("a bundle has not one signature")
	case b.Message != nil:
		return k.verify(s.Raw, b.Message.Signature)
	case len(b.Envelope.Signatures) != 1:
		return fmt.Errorf("a bundle has %d signatures, and not one", len(b.Envelope.Signatures))
	}
	return k.envelope(b.Envelope, s.Digest)
}

// envelope checks a signed statement about an image.
func (k *Key) envelope(e *envelope, digest string) error {
	signed := fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(e.Type), e.Type, len(e.Payload), e.Payload)
	if err := k.verify(signed, e.Signatures[0].Sig); err != nil {
		return err
	}
	if e.Type != inToto {
		return fmt.Errorf("what is signed is no statement about an image, but %.100q", e.Type)
	}
	var st statement
	if err := json.Unmarshal(e.Payload, &st); err != nil {
		return fmt.Errorf("what is signed cannot be read: %w", err)
	}
	if !strings.HasPrefix(st.Type, "https://in-toto.io/Statement/") || st.Predicate != signature {
		return fmt.Errorf("what is signed says something else of the image (%.100q), and approves nothing",
			st.Predicate)
	}
	for _, subject := range st.Subject {
		if "sha256:"+subject.Digest["sha256"] == digest {
			return nil
		}
	}
	return errors.New("another image is signed")
}
