"""Sign with a service account's key, which is made here, as Google's client of its store does."""

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.cloud import storage
from google.oauth2 import service_account

key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
)
account = {"client_email": "jobs@example.com", "token_uri": "https://example.com", "private_key": key.decode()}
credentials = service_account.Credentials.from_service_account_info(account)
storage.Client(project="tandem", credentials=credentials)
print(len(credentials.sign_bytes(b"text")))
