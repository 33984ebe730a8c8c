"""Create the buckets named on the command line where they are missing (address and keys from `AWS_*`)."""

import sys

import boto3
from botocore.exceptions import ClientError


def create_bucket(name: str) -> None:
    try:
        boto3.client("s3").create_bucket(Bucket=name)
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
            raise


if __name__ == "__main__":
    for bucket in sys.argv[1:]:
        create_bucket(bucket)
