package dpssim_test

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/usher-dps/usher/internal/standin/dpssim/attest"
	"github.com/usher-dps/usher/internal/standin/dpssim/model"
	"github.com/usher-dps/usher/internal/standin/dpssim/softtpm"
)

func TestWrapForTPM(t *testing.T) {
	t.Parallel()
	tpm, err := softtpm.New()
	if err != nil {
		t.Fatal(err)
	}
	secret := []byte("the key that only the TPM may see")
	blob, err := attest.WrapForTPM(tpm.Keys(), secret)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(blob, secret) {
		t.Error("the key is in the blob in plain text")
	}
	got, err := tpm.Import(blob)
	if err != nil || !bytes.Equal(got, secret) {
		t.Errorf("got %q, %v", got, err)
	}
	if !bytes.HasSuffix(blob, []byte{0, 0}) {
		t.Error("the blob does not end with an empty URI")
	}
	// One of the checks protects every byte, except the URI.
	for _, at := range []int{4, 40, 70, 200, 340, 400, 560, len(blob) - 40} {
		spoilt := bytes.Clone(blob)
		spoilt[at] ^= 1
		if _, err := tpm.Import(spoilt); err == nil {
			t.Errorf("byte %d of %d was changed and the TPM accepted it", at, len(blob))
		}
	}
	other, err := softtpm.New()
	if err != nil {
		t.Fatal(err)
	}
	mixed := tpm.Keys()
	mixed.StorageRootKey = other.Keys().StorageRootKey
	blob, err = attest.WrapForTPM(mixed, secret)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Import(blob); err == nil {
		t.Error("a TPM with another endorsement key took the blob")
	}
}

// TestWrapForTPMWithCurves uses a TPM with keys on elliptic curves.
func TestWrapForTPMWithCurves(t *testing.T) {
	t.Parallel()
	public := func(template tpm2.TPMTPublic) string {
		key, err := ecdh.P256().GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		point := key.PublicKey().Bytes()[1:]
		template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
			X: tpm2.TPM2BECCParameter{Buffer: point[:32]}, Y: tpm2.TPM2BECCParameter{Buffer: point[32:]},
		})
		return base64.StdEncoding.EncodeToString(tpm2.Marshal(tpm2.New2B(template)))
	}
	blob, err := attest.WrapForTPM(model.TPM{
		EndorsementKey: public(tpm2.ECCEKTemplate), StorageRootKey: public(tpm2.ECCSRKTemplate),
	}, []byte("key"))
	if err != nil || len(blob) == 0 {
		t.Errorf("got %d bytes, %v", len(blob), err)
	}
}

func TestWrapForTPMRefuses(t *testing.T) {
	t.Parallel()
	tpm, err := softtpm.New()
	if err != nil {
		t.Fatal(err)
	}
	good := tpm.Keys()
	hmacKey := base64.StdEncoding.EncodeToString(tpm2.Marshal(tpm2.New2B(tpm2.TPMTPublic{
		Type: tpm2.TPMAlgKeyedHash, NameAlg: tpm2.TPMAlgSHA256,
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgKeyedHash, &tpm2.TPMSKeyedHashParms{
			Scheme: tpm2.TPMTKeyedHashScheme{Scheme: tpm2.TPMAlgNull},
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgKeyedHash, &tpm2.TPM2BDigest{}),
	})))
	for _, c := range []struct {
		keys model.TPM
		want string
	}{
		{model.TPM{EndorsementKey: "?", StorageRootKey: good.StorageRootKey}, "endorsementKey is not base64"},
		{model.TPM{EndorsementKey: good.EndorsementKey, StorageRootKey: "AAAA"}, "storageRootKey is not a TPM2B_PUBLIC"},
		{model.TPM{EndorsementKey: good.EndorsementKey}, "storageRootKey is not a TPM2B_PUBLIC"},
		{model.TPM{EndorsementKey: hmacKey, StorageRootKey: good.StorageRootKey}, "endorsementKey: unsupported key type"},
	} {
		if _, err := attest.WrapForTPM(c.keys, []byte("key")); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %q", err, c.want)
		}
	}
}

func FuzzEndorsementKey(f *testing.F) {
	tpm, err := softtpm.New()
	if err != nil {
		f.Fatal(err)
	}
	for _, text := range []string{tpm.Keys().EndorsementKey, tpm.Keys().StorageRootKey} {
		data, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte{0, 4, 0, 1, 0, 11})
	f.Fuzz(func(t *testing.T, data []byte) {
		text := base64.StdEncoding.EncodeToString(data)
		if attest.CheckEndorsementKey(text) != nil {
			return
		}
		// What is taken when it is enrolled must not break the wrapping.
		_, _ = attest.WrapForTPM(model.TPM{EndorsementKey: text, StorageRootKey: text}, []byte("key"))
	})
}
