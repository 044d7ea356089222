// Package softtpm is a TPM of a made-up device, in software.
package softtpm

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/usher-dps/usher/internal/standin/dpssim/model"
)

// TPM does in software what a device's TPM does with the keys that DPS wraps for it. It undoes each step with its
// own private keys and makes every check that the TPM specification requires. Its endorsement key and its storage root
// key are RSA of 2048 bits.
type TPM struct {
	endorsement, storage             *rsa.PrivateKey
	endorsementPublic, storagePublic tpm2.TPMTPublic
}

// New makes a TPM with new keys.
func New() (*TPM, error) {
	t := &TPM{}
	var err error
	if t.endorsement, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		return nil, err
	}
	if t.storage, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		return nil, err
	}
	t.endorsementPublic = withKey(tpm2.RSAEKTemplate, t.endorsement)
	t.storagePublic = withKey(tpm2.RSASRKTemplate, t.storage)
	return t, nil
}

func withKey(template tpm2.TPMTPublic, key *rsa.PrivateKey) tpm2.TPMTPublic {
	template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: key.N.Bytes()})
	return template
}

// Keys are the public parts, as the device sends them.
func (t *TPM) Keys() model.TPM {
	encode := func(public tpm2.TPMTPublic) string {
		return base64.StdEncoding.EncodeToString(tpm2.Marshal(tpm2.New2B(public)))
	}
	return model.TPM{EndorsementKey: encode(t.endorsementPublic), StorageRootKey: encode(t.storagePublic)}
}

// Import returns the HMAC key in the blob of a challenge or of a registration.
func (t *TPM) Import(blob []byte) ([]byte, error) {
	var parts [6][]byte
	for i := range parts {
		var err error
		if parts[i], err = sizedPrefix(&blob); err != nil {
			return nil, fmt.Errorf("part %d of the blob: %w", i, err)
		}
	}
	if len(blob) != 0 {
		return nil, fmt.Errorf("%d bytes follow the blob", len(blob))
	}
	innerKey, err := t.activateCredential(parts[0], parts[1])
	if err != nil {
		return nil, fmt.Errorf("ActivateCredential: %w", err)
	}
	key, err := t.importDuplicate(innerKey, parts[2], parts[3], parts[4])
	if err != nil {
		return nil, fmt.Errorf("Import: %w", err)
	}
	return key, nil
}

// activateCredential is TPM2_ActivateCredential of the storage root key with the endorsement key.
func (t *TPM) activateCredential(idObject, secret []byte) ([]byte, error) {
	seed, err := decapsulate(t.endorsement, secret, "IDENTITY")
	if err != nil {
		return nil, err
	}
	name, err := tpm2.ObjectName(&t.storagePublic)
	if err != nil {
		return nil, err
	}
	plain, err := unprotect(seed, name.Buffer, idObject)
	if err != nil {
		return nil, err
	}
	return sized(plain)
}

// importDuplicate is TPM2_Import under the storage root key, and the check of TPM2_Load that the public and the secret
// part belong together.
func (t *TPM) importDuplicate(innerKey, duplicate, secret, public []byte) ([]byte, error) {
	parsed, err := tpm2.Unmarshal[tpm2.TPMTPublic](public)
	if err != nil {
		return nil, err
	}
	if parsed.Type != tpm2.TPMAlgKeyedHash || !parsed.ObjectAttributes.SignEncrypt || !parsed.ObjectAttributes.UserWithAuth ||
		parsed.ObjectAttributes.FixedTPM || parsed.ObjectAttributes.FixedParent {
		return nil, errors.New("the public part is not that of an HMAC key that can be imported")
	}
	name, err := tpm2.ObjectName(parsed)
	if err != nil {
		return nil, err
	}
	seed, err := decapsulate(t.storage, secret, "DUPLICATE")
	if err != nil {
		return nil, err
	}
	encrypted, err := unprotect(seed, name.Buffer, duplicate)
	if err != nil {
		return nil, err
	}
	inner, err := decryptCFB(innerKey, encrypted)
	if err != nil {
		return nil, err
	}
	integrity, err := sizedPrefix(&inner)
	if err != nil {
		return nil, err
	}
	if want := sha256.Sum256(append(bytes.Clone(inner), name.Buffer...)); !bytes.Equal(integrity, want[:]) {
		return nil, errors.New("the inner integrity is wrong")
	}
	body, err := sized(inner)
	if err != nil {
		return nil, err
	}
	sensitive, err := tpm2.Unmarshal[tpm2.TPMTSensitive](body)
	if err != nil {
		return nil, err
	}
	data, err := sensitive.Sensitive.Bits()
	if err != nil {
		return nil, err
	}
	unique, err := parsed.Unique.KeyedHash()
	if err != nil {
		return nil, err
	}
	if want := sha256.Sum256(append(bytes.Clone(sensitive.SeedValue.Buffer), data.Buffer...)); !bytes.Equal(unique.Buffer, want[:]) {
		return nil, errors.New("the public part belongs to another key")
	}
	return data.Buffer, nil
}

func decapsulate(key *rsa.PrivateKey, secret []byte, label string) ([]byte, error) {
	return rsa.DecryptOAEP(sha256.New(), nil, key, secret, append([]byte(label), 0))
}

// unprotect undoes the protection of a storage key: a TPM2B_DIGEST with an HMAC, then the encrypted data.
func unprotect(seed, name, protected []byte) ([]byte, error) {
	mac, err := sizedPrefix(&protected)
	if err != nil {
		return nil, err
	}
	want := hmac.New(sha256.New, tpm2.KDFa(crypto.SHA256, seed, "INTEGRITY", nil, nil, 256))
	want.Write(protected)
	want.Write(name)
	if !hmac.Equal(mac, want.Sum(nil)) {
		return nil, errors.New("the HMAC is wrong")
	}
	return decryptCFB(tpm2.KDFa(crypto.SHA256, seed, "STORAGE", name, nil, 128), protected)
}

func decryptCFB(key, encrypted []byte) ([]byte, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	plain := make([]byte, len(encrypted))
	//lint:ignore SA1019 the TPM specification requires CFB
	cipher.NewCFBDecrypter(block, make([]byte, block.BlockSize())).XORKeyStream(plain, encrypted)
	return plain, nil
}

// sizedPrefix cuts a TPM2B off the front.
func sizedPrefix(data *[]byte) ([]byte, error) {
	if len(*data) < 2 {
		return nil, errors.New("a field is cut short")
	}
	size, rest := int(binary.BigEndian.Uint16(*data)), (*data)[2:]
	if len(rest) < size {
		return nil, errors.New("a field is cut short")
	}
	*data = rest[size:]
	return rest[:size], nil
}

// sized reads a TPM2B that nothing follows.
func sized(data []byte) ([]byte, error) {
	field, err := sizedPrefix(&data)
	if err == nil && len(data) != 0 {
		err = errors.New("bytes follow a field")
	}
	return field, err
}
