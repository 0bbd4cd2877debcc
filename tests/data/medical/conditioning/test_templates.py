"""Beginner's questions ask what the dataset says, in plain words."""

import pytest

from medjax.data.medical.conditioning import templates, terms
from medjax.data.medical.conditioning.settings import Settings
from medjax.data.medical.conditioning.words import table
from medjax.data.medical.record import Question


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        ("CT - noncontrast", "CT"),
        (" CT w/contrast (IV)", "CT"),
        ("CTA - CT Angiography", "CT"),
        ("CT - Myelogram", "CT"),
        ("MR - T1W w/Gadolinium", "MRI"),
        ("MR T2* gradient,GRE,MPGR,SWAN,SWI", "MRI"),
        ("MRA - MR Angiography/Venography", "MRI"),
        ("MR - Other Pulse Seq.", "MRI"),
        ("XR - Plain Film", "X-ray"),
        ("US-D - Doppler Ultrasound", "ultrasound"),
        ("Mammograph", "mammography"),
        ("BAS - Barium Swallow", "fluoroscopy"),
        ("AN - Angiogram", "angiography"),
        ("PET - Positron Emission", "PET"),
        ("PET-CT Fusion", "PET/CT"),
        ("CT and MRI", ""),
        ("Photograph", ""),
    ],
)
def test_modalities(value, plain):
    assert terms.modality({"modality": value}) == plain


def test_the_type_tells_where_the_modality_does_not():
    assert terms.modality({"modality": "Other", "type": "MR"}) == "MRI"
    assert terms.modality({}) == ""


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        ("AX", "axial"),
        ("Axial", "axial"),
        ("Transverse", "axial"),
        ("Sag", "sagittal"),
        ("COR", "coronal"),
        ("PA", "frontal"),
        ("Axial and coronal", ""),
        ("3D Reconstruction", ""),
    ],
)
def test_planes(value, plain):
    assert terms.plane({"plane": value}) == plain


@pytest.mark.parametrize(
    ("facts", "plain"),
    [
        ({"location": "Brain_Tissue"}, "brain"),
        ({"location": "ABD"}, "abdomen"),
        ({"location": "LSPINE"}, "lumbar spine"),
        ({"location": "Temporal  Lobe", "location_category": "Head"}, "temporal lobe"),
        ({"location": "Left Blank", "location_category": "Thorax"}, "chest"),
        ({"location": "somewhere in the neck of a very long sentence"}, ""),
        ({}, ""),
    ],
)
def test_places(facts, plain):
    assert terms.location(facts) == plain


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"diagnosis": "Normal"}, "normal"),
        ({"diagnosis": "Normal brain MRI."}, "normal"),
        ({"findings": "Unremarkable study"}, "normal"),
        ({"diagnosis": "Glioma", "findings": "A mass."}, "abnormal"),
        ({"diagnosis": "Normal", "findings": "A long text."}, "normal"),
        ({"diagnosis": "Normal variant"}, ""),
        ({"diagnosis": "Normal pressure hydrocephalus"}, ""),
        ({"diagnosis": "Glioma", "findings": "Normal."}, ""),
        ({"diagnosis": "N/A"}, ""),
        ({"findings": "A mass."}, ""),
        ({}, ""),
    ],
)
def test_normal_and_abnormal_are_what_the_dataset_says(facts, said):
    assert terms.normal(facts) == said


def test_a_way_of_writing_means_one_thing():
    for kind in ("modality", "plane", "location"):
        ways = [way for listed in table("terms.json")[kind].values() for way in listed]
        assert len(ways) == len(set(ways))
    assert set(table("template_questions.json")) == set(templates.TASKS)


def test_questions_are_added_where_there_is_none_of_the_task(record):
    known = {"modality": "CT - noncontrast", "plane": "AX", "sex": "male", "age": "40"}
    own = Question("q", "plane", "Plane?", "Axial")
    records = [
        record("a", own, diagnosis="Glioma", **known),
        record("b", diagnosis="Normal", location="Head", modality="Photograph"),
    ]
    made, report = templates.step(records, Settings())
    found = {q.id: (q.task, q.answer) for one in made for q in one.questions}
    assert found == {
        "q": ("plane", "Axial"),
        "a/template/modality": ("modality", "CT"),
        "a/template/normal": ("normal", "abnormal"),
        "b/template/location": ("location", "head"),
        "b/template/normal": ("normal", "normal"),
    }
    for question in made[1].questions:
        assert (question.origin, question.mode) == ("template", "pre_training")
        assert question.question in table("template_questions.json")[question.task]
    assert made[1].questions[1].facts == {"question_type": "normal", "answer_type": "closed"}
    assert report.changed == {
        "question added: modality": 1, "question added: location": 1, "question added: normal": 2,
    }  # fmt: skip
    assert report.figures["answers"]["normal"] == {"abnormal": 1, "normal": 1}
    assert report.figures["facts_not_understood"] == {"modality": {"Photograph": 1}}


def test_nothing_is_asked_that_has_one_answer_alone(record):
    records = [record(f"{n}", diagnosis="Glioma") for n in range(3)]
    made, report = templates.step(records, Settings())
    assert made == records
    assert "every image is abnormal" in report.warnings[0]


def test_phrasings_are_several_and_follow_from_the_image(record):
    records = [record(f"{n}", plane="AX") for n in range(40)]
    made, _ = templates.step(records, Settings())
    asked = {one.id: one.questions[0].question for one in made}
    assert set(asked.values()) == set(table("template_questions.json")["plane"])
    again, _ = templates.step(records[::-1], Settings())
    assert {one.id: one.questions[0].question for one in again} == asked


def test_nothing_is_added_in_a_language_that_is_not_wanted(record):
    made, report = templates.step([record("a", plane="AX")], Settings(languages=("zh",)))
    assert made[0].questions == ()
    assert report.warnings
