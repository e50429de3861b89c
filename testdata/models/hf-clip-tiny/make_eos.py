"""eos.json: text features of transformers 5.24 for configurations with other ends of the text.

python make_eos.py > eos.json
"""
import json
import pathlib

import torch
from transformers import CLIPConfig, CLIPModel

here = pathlib.Path(__file__).parent
config = json.loads((here / "config.json").read_text())
state = torch.load(here.parents[1] / "formats/11_hf/pytorch_model.bin", weights_only=True)
state = {k: v for k, v in state.items() if not k.endswith("position_ids")}
torch.manual_seed(8)
tokens = torch.randint(8, 120, (6, 77))
tokens[0, 20] = 7  # the end, larger ids around it
tokens[1, 30], tokens[1, 40] = 7, 7  # the first counts
tokens[2, 0] = 7
tokens[3, 76] = 7
tokens[4, 9] = 129  # the largest id, but no end
# tokens[5] has no end at all
cases = []
for eos in (7, 2, 129, 49407):
    config["text_config"]["eos_token_id"] = eos
    model = CLIPModel(CLIPConfig(**config)).eval()
    model.load_state_dict(state)
    with torch.no_grad():
        out = model.get_text_features(input_ids=tokens)
    features = out if torch.is_tensor(out) else out.pooler_output
    cases.append({"eos": eos, "features": [[round(v, 6) for v in row] for row in features.tolist()]})
print(json.dumps({"tokens": tokens.tolist(), "cases": cases}))
