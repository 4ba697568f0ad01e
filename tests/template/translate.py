"""What CloudFormation makes of a SAM template: JSON on standard input, JSON on standard output. Runs in .venv-sam."""

import json
import os
import sys

from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator

os.environ.setdefault("AWS_DEFAULT_REGION", "eu-central-1")
json.dump(Translator({}, Parser()).translate(json.load(sys.stdin), {}), sys.stdout)
